// concat along an inner axis: a run of one part, a row of threads each; runs lie `step` apart in the result.
extern "C" __global__ void copy_runs(const T* source, T* result, long length, long step, long runs) {
  const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < length * runs) result[i / length * step + i % length] = source[i];
}

// gather: rows of a table by index. An index outside the table is left for the host to find: fault[0] becomes its position + 1,
// fault[1] the index, fault[2] the table's rows.
extern "C" __global__ void gather(const T* table, const int* indices, T* result, int table_rows, long count, int width, int* fault) {
  const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int row = (int)(i / width), index = indices[row];
  if (index < 0 || index >= table_rows) {
    if (i % width == 0 && atomicCAS(fault, 0, row + 1) == 0) {
      fault[1] = index;
      fault[2] = table_rows;
    }
    return;
  }
  result[i] = table[(long)index * width + i % width];
}
