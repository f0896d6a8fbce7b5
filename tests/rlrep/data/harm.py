"""Hostile replacements for the data set `name` in a group of an HDF5 file; `secret` is somebody else's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def external_link(file: Any, name: str, secret: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(str(secret), "reward")


def soft_link(file: Any, name: str, secret: Path) -> None:
    file.move(name, name + "_moved")
    file[name] = h5py.SoftLink(f"{file.name}/{name}_moved")


def external_storage(file: Any, name: str, secret: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file: Any, name: str, secret: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(str(secret), "reward", shape, dtype)
    del file[name]
    file.create_virtual_dataset(name, layout)


def no_storage(file: Any, name: str, secret: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype)  # without content, it would be read as zeros


def no_chunks(file: Any, name: str, secret: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, chunks=shape, compression="gzip")


def half_of_the_chunks(file: Any, name: str, secret: Path) -> None:
    array = file[name][:]
    del file[name]
    chunked = file.create_dataset(name, array.shape, array.dtype, chunks=(1, *array.shape[1:]))
    chunked[::2] = array[::2]


def huge(file: Any, name: str, secret: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, (10**7, *shape[1:]), dtype, chunks=(100, *shape[1:]), compression="gzip")


def huge_chunks(file: Any, name: str, secret: Path) -> None:
    array = file[name][:]
    del file[name]
    chunks = ((1 << 22) // array[:1].nbytes, *array.shape[1:])
    file.create_dataset(
        name, data=array, maxshape=(None, *array.shape[1:]), chunks=chunks, compression="gzip", compression_opts=9
    )


def twice_compressed(file: Any, name: str, secret: Path) -> None:
    array = file[name][:]
    del file[name]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(array.shape)
    plist.set_deflate(1)
    plist.set_deflate(1)
    new = h5py.h5d.create(
        file.id, name.encode(), h5py.h5t.py_create(array.dtype), h5py.h5s.create_simple(array.shape), plist
    )
    h5py.Dataset(new)[...] = array


def plugin_filter(file: Any, name: str, secret: Path) -> None:
    array = file[name][:].astype(np.uint8 if file[name].dtype == bool else file[name].dtype)
    del file[name]
    file.create_dataset(name, data=array, chunks=array.shape, scaleoffset=0 if array.dtype.kind in "iu" else 3)


def strings(file: Any, name: str, secret: Path) -> None:
    count = len(file[name])
    del file[name]
    file[name] = ["text"] * count


def one_value(file: Any, name: str, secret: Path) -> None:
    dtype = file[name].dtype
    del file[name]
    file[name] = dtype.type(1)


def named_type(file: Any, name: str, secret: Path) -> None:
    del file[name]
    file[name] = np.dtype("f8")


HARM = [
    external_link,
    soft_link,
    external_storage,
    virtual,
    no_storage,
    no_chunks,
    half_of_the_chunks,
    huge,
    huge_chunks,
    twice_compressed,
    plugin_filter,
    strings,
    one_value,
    named_type,
]
