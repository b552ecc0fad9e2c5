"""The formats that `adapters data convert` reads and writes: docs/formats.md."""

from adapters.data.formats.base import Format, Mention
from adapters.data.formats.catalogue import FORMATS, detect, find
from adapters.data.formats.convert import Converted, convert
from adapters.data.formats.source import Source
from adapters.data.formats.write import WRITERS

__all__ = ["FORMATS", "WRITERS", "Converted", "Format", "Mention", "Source", "convert", "detect", "find"]
