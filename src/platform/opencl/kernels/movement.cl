// concat along an inner axis: a run of one part, a row of work-items each; runs lie `step` apart in the result.
__kernel void copy_runs(__global const T* source, ulong source_at, __global T* result, ulong result_at, long length, long step) {
  const long i = get_global_id(0), run = get_global_id(1);
  if (i < length) result[result_at + run * step + i] = source[source_at + run * length + i];
}

// gather: rows of a table by index. An index outside the table is left for the host to find: fault[0] becomes its position + 1,
// fault[1] the index, fault[2] the table's rows.
__kernel void gather(__global const T* table, ulong table_at, __global const int* indices, ulong indices_at, __global T* result,
                     ulong result_at, int table_rows, long count, int width, volatile __global int* fault) {
  const long i = get_global_id(0);
  if (i >= count) return;
  const int row = i / width, index = indices[indices_at + row];
  if (index < 0 || index >= table_rows) {
    if (i % width == 0 && atomic_cmpxchg(fault, 0, row + 1) == 0) {
      fault[1] = index;
      fault[2] = table_rows;
    }
    return;
  }
  result[result_at + i] = table[table_at + (long)index * width + i % width];
}
