"""Settings in which every file of launch/pods is made and checked."""

DEFAULT = "launch/policy_sft.py"  # begins the command of launch/pods/settings.py
TRAIN = "launch/policy_sft.py --config=configs/policy_sft.py:nano --config.inputs.policy='a \"b\" $(c) $D'"
SEARCH = {"command": "launch/search.py --config.problems=/mnt/o1jax/runs/mine", "name": "search", "nodes": 16}
BUCKET = {"volume": "gs://my-bucket"}
CASES = [  # (target, settings)
    ("slurm", {"hardware": "h100:8", "nodes": 1, "command": TRAIN}),
    ("slurm", {"hardware": "h200:8", "nodes": 4, "container": True, "partition": "gpu", "account": "me"}),
    ("slurm", {"hardware": "cpu:4", "env": ["A=it's", "B=2"]}),
    ("jobset", {"hardware": "h100:8", "nodes": 4, "command": TRAIN}),
    ("jobset", {"hardware": "v5p:2x2x4", "env": ["A=$(B)"]}),
    ("jobset", {"hardware": "v6e:4x4", "slices": 4, "mesh": "data=4,fsdp=16", **BUCKET}),
    ("jobset", {"hardware": "cpu:8", "spot": False, "queue": "", "volume": "pvc:runs"}),
    ("search", {"hardware": "h100:1", **SEARCH}),
    ("search", {"hardware": "v5e:2x4", **SEARCH, **BUCKET}),
    ("search", {"hardware": "cpu:8", "volume": "", **SEARCH}),
    ("kueue", {"hardware": "h200:8"}),
    ("kueue", {"hardware": "v5e:4x8", "slices": 2}),
    ("kueue", {"hardware": "cpu:8", "spot": False}),
    ("xpk", {"hardware": "v5p:2x2x4", "slices": 2, "command": TRAIN}),
    ("xpk", {"hardware": "h200:8", "nodes": 2, "env": ["A=it's"]}),
    ("tpu_vm", {"hardware": "v6e:4x4", "slices": 2, "env": ["A=1"], "command": TRAIN}),
    ("tpu_vm", {"hardware": "v5p:2x2x2", **BUCKET}),
    ("skypilot", {"hardware": "h100:8", "nodes": 2, "env": ["A=1"], "command": TRAIN, **BUCKET}),
    ("skypilot", {"hardware": "v6e:4x4", **BUCKET}),
    ("skypilot", {"hardware": "cpu:8", "spot": False, **BUCKET}),
    ("ray", {"hardware": "h100:8", "nodes": 2, "env": ["A=it's"], "command": TRAIN}),
    ("image", {"hardware": "v5e:4x4"}),
]
NAMES = [f"{target}-{settings['hardware']}" for target, settings in CASES]
