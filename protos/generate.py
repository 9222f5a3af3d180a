"""Write ``splitnn/proto`` anew: ``python protos/generate.py``.

Needs an environment of its own with grpcio-tools 1.80.0. Its stubs import with protobuf 6 and 7, those of later
versions only with 7; it cannot share an environment with a newer protobuf.

The standard protocol's messages go into a descriptor pool of their own. Every client library of that protocol brings
the same names (``inference.ModelInferRequest``) in another file, and one pool holds a name once: with the default pool
splitnn and such a client could not be imported by one process.
"""

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-not-found]  # in the environment of its own only

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("splitnn/proto")
POOL = "_descriptor_pool.Default()"


def generate() -> None:
    """Compile every .proto and give the standard protocol a pool of its own."""
    sources = sorted((ROOT / "protos" / PACKAGE).glob("*.proto"))
    arguments = ["protoc", f"-I{ROOT / 'protos'}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    arguments += [f"--python_out={ROOT}", f"--pyi_out={ROOT}", *map(str, sources)]
    if status := protoc.main(arguments):
        sys.exit(status)
    (ROOT / PACKAGE / "__init__.py").touch()
    stub = ROOT / PACKAGE / "open_inference_pb2.py"
    text = stub.read_text()
    if text.count(POOL) != 1:
        sys.exit(f"{stub.name}: expected {POOL} once; the generator has changed")
    stub.write_text(text.replace(POOL, "_descriptor_pool.DescriptorPool()"))


if __name__ == "__main__":
    generate()
