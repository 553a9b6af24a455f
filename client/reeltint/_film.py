"""Films and stills in and out."""

from reeltint._film_read import FilmFrame, FilmInfo, FilmReader
from reeltint._film_still import read_still, write_still
from reeltint._film_write import FilmWriter

__all__ = ["FilmFrame", "FilmInfo", "FilmReader", "FilmWriter", "read_still", "write_still"]
