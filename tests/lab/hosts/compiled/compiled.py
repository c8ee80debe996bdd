"""Has a lab's host keep what its Python compiles from archives.

Each task of a playbook brings its module as an archive, and Python compiles it anew: half of the
processor time of all hosts. It lies on a host as a module of its own, which every start of Python
there imports: so it imports little itself. Runs on Python 3.6.
"""

import marshal
import os
import sys
import types
import zipimport
from _sha1 import sha1  # type: ignore[import-not-found] # hashlib would load OpenSSL

FOLDER = "/tmp/.compiled-{}"  # of each user


class Archive(zipimport.zipimporter):
    """An archive of modules; the code of one names the archive that it was first compiled from."""

    def get_code(self, fullname: str) -> types.CodeType:
        """The code of a module."""
        source = self.get_source(fullname)
        if source is None:
            return super().get_code(fullname)
        name = sha1(f"{sys.implementation.cache_tag}\0{source}".encode()).hexdigest()
        kept = os.path.join(FOLDER.format(os.geteuid()), name)
        try:
            with open(kept, "rb") as file:
                found: types.CodeType = marshal.load(file)  # noqa: S302 - by this user himself
                return found
        except OSError:
            code = super().get_code(fullname)
        _keep(kept, code)
        return code

    def load_module(self, fullname: str) -> types.ModuleType:
        """Import a module, as Python before 3.10 does it."""
        module = types.ModuleType(fullname)
        module.__file__ = self.get_filename(fullname)
        module.__loader__ = self
        module.__package__ = fullname.rpartition(".")[0]
        if self.is_package(fullname):
            module.__package__ = fullname
            module.__path__ = [os.path.dirname(module.__file__)]
        sys.modules[fullname] = module
        try:
            exec(self.get_code(fullname), module.__dict__)  # noqa: S102 - that is to import it
        except BaseException:
            del sys.modules[fullname]
            raise
        return sys.modules[fullname]


def _keep(kept: str, code: types.CodeType) -> None:
    unfinished = f"{kept}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
        with open(unfinished, "wb") as file:
            marshal.dump(code, file)
        os.replace(unfinished, kept)
    except OSError:
        return  # where there is no room, nothing is kept


sys.path_hooks[sys.path_hooks.index(zipimport.zipimporter)] = Archive
sys.path_importer_cache.clear()
