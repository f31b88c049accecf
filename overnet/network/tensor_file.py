"""Loading of PyTorch files that may be damaged or hostile: no code is run, and memory follows the file's length."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overnet.errors import CheckpointError, one_line


def load_tensor_file(path: Path) -> Any:
    """Load a file that ``torch.save`` wrote, on the CPU.

    Returns:
        Its content: containers, numbers, texts and dense tensors, which together are no larger than the file.

    Raises:
        CheckpointError: it is missing, damaged, compressed, of another kind, contains code, or its tensors are larger
            than the file or not dense ones in memory.
    """
    # The original's training loop stores its best PSNR as a number of numpy, which contains no code.
    numbers = [np.dtype, np.float64, np.float32, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    # The function that rebuilds it has one name in numpy 1 and another in numpy 2.
    rebuild: Any = np.float64(0).__reduce__()[0]
    rebuilding = [(rebuild, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        length_bytes = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > length_bytes:
                    raise CheckpointError(f"{path}: refused: it is compressed, as PyTorch never writes its files")
        with torch.serialization.safe_globals([*numbers, *rebuilding]), warnings.catch_warnings():
            # torch warns about its own internals here; a file that cannot be loaded raises an error below.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = list(_tensors(content))
        for tensor in tensors:
            if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
                raise CheckpointError(f"{path}: refused: it holds a tensor that is no plain array of numbers")
        if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > length_bytes:
            raise CheckpointError(f"{path}: refused: its tensors are larger than the file")
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or one_line(error)}") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise CheckpointError(
                f"{path}: refused: it would run code when loaded ({found[1]}); it is not a plain checkpoint"
            ) from error
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, or a truncated one") from error
    except Exception as error:  # the unpickler calls constructors with a damaged file's values, which raise any type
        reason = one_line(error, line=0)
        raise CheckpointError(f"{path}: not a PyTorch checkpoint, or a damaged one ({reason})") from error
    return content


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested containers; deeper nesting than Python's stack raises RecursionError."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping | list | tuple | set):
        for member in [*content, *content.values()] if isinstance(content, Mapping) else content:
            yield from _tensors(member)
