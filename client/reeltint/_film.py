"""Films and stills in and out."""

from reeltint._film_read import FilmFrame, FilmInfo, FilmReader, read_still
from reeltint._film_write import FilmWriter, write_still

__all__ = ["FilmFrame", "FilmInfo", "FilmReader", "FilmWriter", "read_still", "write_still"]
