// A weight that stays in memory as a file stores it, to the panels that a product reads (kernels/product.cl): [panels][columns of the
// weight][PANEL], zeros past its last row. Behind storage.cl (with SCALAR_MATH) and base/blocks.inc; the host defines
//   RUN, ELEMENTS, BYTES   the function of blocks.inc, and a block's elements and bytes;
//   or VALUE               that of a byte, an element each;
//   or neither             where elements are T already
//   SCALED                 1: every row has a scale
//   CHANGED                1: something is added, [rows][columns] of the weight

// An item has 16 elements of a row, or of one past the last: rows [first, first + rows) of the weight, and `padded` more that are zeros.
__kernel void widen(__global const uchar* blocks, ulong blocks_at, __global const float* scales, ulong scales_at,
                    __global const T* change, ulong change_at, __global T* packed, ulong packed_at, int first, int rows, int padded, int columns) {
  const int row = get_global_id(0), column = get_global_id(1) * 16;
  if (row >= rows + padded) return;
  const int here = min(columns - column, 16);
  float values[16];
  if (row >= rows) {
    for (int i = 0; i < 16; ++i) values[i] = 0.0f;
  } else {
    const long at = (long)row * columns + column;
    blocks += blocks_at;
#if defined(RUN)
    RUN(blocks + at / ELEMENTS * BYTES, (int)(at % ELEMENTS) / 16, values);
#elif defined(VALUE)
    for (int i = 0; i < here; ++i) values[i] = VALUE(blocks[at + i]);
#else
    for (int i = 0; i < here; ++i) values[i] = load((__global const T*)blocks + at + i);
#endif
#if SCALED
    for (int i = 0; i < here; ++i) values[i] *= scales[scales_at + row];
#endif
  }
  const int to = first + row;
#if CHANGED
  if (row < rows)
    for (int i = 0; i < here; ++i) values[i] += load(change + change_at + (long)to * columns + column + i);
#endif
  packed += packed_at + ((long)(to / PANEL) * columns + column) * PANEL + to % PANEL;
  for (int i = 0; i < here; ++i) store(values[i], packed + i * PANEL);
}
