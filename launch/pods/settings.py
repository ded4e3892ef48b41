"""One page for all files of launch/pods: what is to run, on what, and where. Copy it, or change it by flags:

    python launch/pods.py slurm --config.nodes=4 --config.workdir=/mnt/o1jax/runs/policy_sft

What a target has no use for, it ignores. The defaults show the form; none is a place that exists.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The settings; launch/pods.py says which of them do not go together."""
    return ml_collections.ConfigDict(
        {
            # What runs: a name of small letters, digits and hyphens; a script with its flags, without
            # --workdir and those about processes; the run's directory, which all machines see.
            "name": "o1jax",
            "command": "launch/policy_sft.py --config=configs/policy_sft.py:qwen2.5-7b "
            "--config.inputs.found_0=/mnt/o1jax/runs/search/search",
            "workdir": "/mnt/o1jax/runs/policy_sft",
            # On what: <gpu>:<GPUs of a node>, <tpu>:<topology of a slice> or cpu:<cores of a node>.
            "hardware": "h100:8",
            "nodes": 2,  # of GPUs or CPUs; a TPU slice has as many hosts as its topology says
            "slices": 1,  # of a TPU pod, each of that topology
            "mesh": "",  # of training, as "fsdp=8,tensor=2" (O1JAX_MESH); all devices on data if empty
            "env": (),  # further variables, each "NAME=value"
            "spot": True,  # machines that may be taken away: each way of starting tries again
            "restarts": 50,  # how often, before someone should look
            "grace_s": 300,  # from SIGTERM to SIGKILL: training saves in it (a 7B model with AdamW: 91 GB)
            "port": 8476,  # where process 0 listens for the others
            # The shared file system: nfs:<server>:<path>, gs://<bucket>, pvc:<claim> (Kubernetes alone), or
            # nothing where each machine has it. It is at `mount` on every machine.
            "volume": "nfs:10.0.0.2:/runs",
            "mount": "/mnt/o1jax",
            # The image (launch/pods/Dockerfile), for all but Slurm without a container.
            "image": "us-docker.pkg.dev/my-project/o1jax/o1jax:latest",
            # Slurm: the repository and the Python with o1jax installed, at the same path on all nodes.
            "code": "/mnt/o1jax/o1jax",
            "python": ".venv-gpu/bin/python",
            "container": False,  # run `image` by srun's --container-image (the plugin pyxis)
            "partition": "",
            "account": "",
            "time": "24:00:00",
            # Kubernetes: the queue is Kueue's LocalQueue, none if empty.
            "namespace": "default",
            "queue": "o1jax",
            # Google Cloud, for xpk and TPU VMs.
            "project": "my-project",
            "zone": "us-east5-a",
            "cluster": "my-cluster",
            # Ray: the address of the cluster's jobs.
            "ray_address": "http://127.0.0.1:8265",
        }
    )
