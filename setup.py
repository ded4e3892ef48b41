"""Installs o1jax. Locked environments are in third_party/constraints (`make install` uses cpu.txt)."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
REQUIRED = [
    "absl-py>=2.3",
    "datasets>=4.0",
    "datasketch>=1.6",
    "etils[epath]>=1.13",
    "flax>=0.12.4",
    "gguf>=0.17",
    "httpx2>=2.0",
    "jinja2>=3.1",
    "ml-collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.11.33",
    "pyarrow>=20",
    "pydantic>=2.12",
    "qwix>=0.1.8",
    "safetensors>=0.6",
    "scikit-learn>=1.6",
    "tensorboardX>=2.6",
    "tokenizers>=0.22",
    "tqdm>=4.67",
    "transformers>=5.0",
]

setuptools.setup(
    name="o1jax",
    version="0.1.0",
    description="O1-CODER (arXiv 2412.00154) rebuilt in JAX: self-play for coding models",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["o1jax", "o1jax.*"]),
    package_data={"o1jax.report": ["*.css", "*.js", "templates/*.jinja"]},
    install_requires=REQUIRED,
    extras_require={
        "cpu": ["jax>=0.10.2"],
        "gpu": ["jax[cuda12]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "vllm": ["vllm>=0.12"],
        "gcs": ["gcsfs>=2025.5"],
        "s3": ["s3fs>=2025.5"],
        "browser": ["selenium>=4.30"],
        "parity": ["accelerate>=1.10"],
        "test": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.12"],
    },
)
