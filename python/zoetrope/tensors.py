"""Dense arrays without a library of arrays: memory with a dtype and a shape, shared by DLPack and numpy's array interface.

numpy arrays, torch tensors and whatever else speaks DLPack come in, and a ``Tensor`` goes out to them, without a copy.
"""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any, Sequence

from .errors import InvalidArgument, Unsupported

__all__ = ["Tensor", "as_tensor", "DTYPES"]

# dtype: bytes of an element, DLPack's type code and bits, numpy's type string.
DTYPES: dict[str, tuple[int, int, int, str | None]] = {
    "f32": (4, 2, 32, "<f4"),
    "bf16": (2, 4, 16, None),  # numpy has none
    "i32": (4, 0, 32, "<i4"),
    "u8": (1, 1, 8, "|u1"),
}
CPU, CUDA, CUDA_HOST = 1, 2, 3  # DLPack's devices


class _DLDevice(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", _DLDevice), ("ndim", ctypes.c_int32), ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = [("dl_tensor", _DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", _Deleter)]

_NAME, _USED = b"dltensor", b"used_dltensor"
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
# A capsule that is being destroyed has no references left: it comes as its address, not as an object.
_is_valid_at = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer_at = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))

_handed_out: dict[int, tuple[Any, ...]] = {}  # what DLPack's users still hold, by address


def _forget(managed: Any) -> None:
    _handed_out.pop(ctypes.addressof(managed.contents), None)


def _forget_capsule(capsule: int) -> None:
    if _is_valid_at(capsule, _NAME):  # nobody took it
        _handed_out.pop(_pointer_at(capsule, _NAME), None)


_delete = _Deleter(_forget)
_delete_capsule = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_forget_capsule)


class Tensor:
    """Dense row-major memory. ``numpy.asarray(t)``, ``torch.from_dlpack(t)`` and ``memoryview(t.bytes())`` share it.

    Attributes:
        dtype: "f32", "bf16", "i32" or "u8".
        shape: extents, outermost first.
        device: DLPack's kind of device and its number: (1, 0) is this process's memory, (2, n) the CUDA device n.
    """

    def __init__(self, dtype: str, shape: Sequence[int], address: int, device: tuple[int, int], owner: object) -> None:
        if dtype not in DTYPES:
            raise InvalidArgument(f'[tensor] unknown dtype: got "{dtype}", expected {", ".join(DTYPES)}.')
        self.dtype, self.shape, self.address, self.device = dtype, tuple(int(extent) for extent in shape), address, device
        self._owner = owner  # keeps the memory

    @classmethod
    def zeros(cls, dtype: str, shape: Sequence[int]) -> Tensor:
        """Zeroes in this process's memory."""
        size = math.prod(shape) * DTYPES[dtype][0] if dtype in DTYPES else 0
        memory = (ctypes.c_uint8 * max(size, 1))()
        return cls(dtype, shape, ctypes.addressof(memory), (CPU, 0), memory)

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.count * DTYPES[self.dtype][0]

    @property
    def is_on_host(self) -> bool:
        return self.device[0] in (CPU, CUDA_HOST)

    def bytes(self) -> memoryview:
        """The memory as writable bytes, without a copy."""
        self._check_host()
        view = (ctypes.c_uint8 * self.size_bytes).from_address(self.address)
        view._keep = self  # type: ignore[attr-defined]
        return memoryview(view).cast("B")

    def tolist(self) -> list[float]:
        """The elements in their order, as numbers."""
        data = self.bytes()
        if self.dtype == "bf16":
            wide = bytearray(2 * len(data))
            wide[2::4], wide[3::4] = data[0::2], data[1::2]
            return list(memoryview(wide).cast("f"))
        return list(elements(self))

    def numpy(self) -> Any:
        """A numpy array over the same memory; bf16 is widened to a float32 copy."""
        import numpy

        if self.dtype == "bf16":
            bits = numpy.frombuffer(self.bytes(), dtype="<u2").astype("<u4") << 16
            return bits.view("<f4").reshape(self.shape)
        return numpy.frombuffer(self.bytes(), dtype=DTYPES[self.dtype][3]).reshape(self.shape)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        typestr = DTYPES[self.dtype][3]
        if typestr is None or not self.is_on_host:
            raise AttributeError("__array_interface__")
        return {"version": 3, "shape": self.shape, "typestr": typestr, "data": (self.address, False)}

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: object = None, **_: object) -> Any:
        """A capsule for ``from_dlpack``. Results are complete when they are handed out: no stream has to wait."""
        shape = (ctypes.c_int64 * max(len(self.shape), 1))(*self.shape)
        code, bits = DTYPES[self.dtype][1:3]
        managed = _DLManagedTensor(
            _DLTensor(self.address, _DLDevice(*self.device), len(self.shape), _DLDataType(code, bits, 1), shape, None, 0), None, _delete)
        address = ctypes.addressof(managed)
        _handed_out[address] = (managed, shape, self)
        return _new_capsule(address, _NAME, ctypes.cast(_delete_capsule, ctypes.c_void_p))

    def _check_host(self) -> None:
        if not self.is_on_host:
            raise Unsupported("[tensor] lies on a device. Take it with from_dlpack there, or download it.")

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}{list(self.shape)}, device={self.device})"


def elements(tensor: Tensor) -> Any:
    """The memory as a view of numbers; not of bf16."""
    formats: dict[str, Any] = {"f32": "f", "i32": "i", "u8": "B"}
    return tensor.bytes().cast(formats[tensor.dtype])


def _dtype_of(code: int, bits: int, lanes: int) -> str:
    for name, row in DTYPES.items():
        if row[1:3] == (code, bits) and lanes == 1:
            return name
    raise InvalidArgument(f"[tensor] bad dtype: got DLPack's kind {code} of {bits} bits, expected {', '.join(DTYPES)}. Cast it first.")


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if extent != 1 and stride != expected:
            return False
        expected *= extent
    return True


def _wait_for(producer: object) -> None:
    """Until what a device's other library has queued is done: the engine's streams wait for none of its."""
    library = type(producer).__module__.partition(".")[0]
    module = sys.modules.get(library)
    if library == "torch" and module is not None:
        module.cuda.current_stream(producer.device).synchronize()  # type: ignore[attr-defined]
    elif library == "cupy" and module is not None:
        module.cuda.get_current_stream().synchronize()
    else:
        raise Unsupported(f"[tensor] a {type(producer).__name__} on a device: it is not known how to wait for its work. Give a torch tensor.")


def as_tensor(array: Any) -> Tensor:
    """A view of a numpy array, a torch tensor, or any object with DLPack, without a copy.

    It must be dense (row-major) and of a dtype of ``DTYPES``: InvalidArgument says what it is instead.
    """
    if isinstance(array, Tensor):
        return array
    if type(array).__module__.partition(".")[0] == "numpy":  # its DLPack refuses what is read-only
        interface = array.__array_interface__
        names = {row[3]: name for name, row in DTYPES.items() if row[3]}
        if interface["typestr"] not in names:
            raise InvalidArgument(f"[tensor] bad dtype: got {array.dtype}, expected float32, int32 or uint8. Cast it first.")
        if interface["strides"] is not None:
            raise InvalidArgument("[tensor] is not dense: got a numpy array with strides. Pass numpy.ascontiguousarray of it.")
        return Tensor(names[interface["typestr"]], array.shape, interface["data"][0], (CPU, 0), array)
    if not hasattr(array, "__dlpack__"):
        raise InvalidArgument(f"[tensor] got a {type(array).__name__}, expected an array with DLPack, of numpy or torch.")
    device = tuple(int(each) for each in array.__dlpack_device__())
    if device[0] not in (CPU, CUDA_HOST):
        _wait_for(array)
    capsule = array.__dlpack__()
    view = ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_DLManagedTensor)).contents.dl_tensor
    shape = [view.shape[i] for i in range(view.ndim)]
    if view.strides and not _is_dense(shape, [view.strides[i] for i in range(view.ndim)]):
        raise InvalidArgument(f"[tensor] is not dense: got strides of a {shape}. Pass a contiguous one.")
    dtype = _dtype_of(view.dtype.code, view.dtype.bits, view.dtype.lanes)
    # The capsule is not taken over but kept: it frees what it holds when it goes.
    return Tensor(dtype, shape, (view.data or 0) + view.byte_offset, (device[0], device[1]), (capsule, array))
