"""JSON schemas of what kubernetes-validate does not know, written from the projects' documentation: the
fields that are allowed where launch/pods writes one, and no other. A job inside a JobSet is a batch/v1 Job.

https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2, https://kueue.sigs.k8s.io/docs/reference/kueue.v1beta2
"""

TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY = {"type": ["string", "integer"], "pattern": "^[0-9]+([kMGT]i?)?$"}


def record(*required, **fields):
    """An object with these fields, and no other."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def many(item):
    return {"type": "array", "items": item, "minItems": 1}


METADATA = record("name", name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)
RULE = record(
    "action",
    "name",
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={
        "enum": [
            "FailJobSet",
            "RestartJobSet",
            "RestartJobSetAndIgnoreMaxRestarts",
            "RestartJob",
            "RestartJobAndIgnoreMaxRestarts",
        ]
    },
    onJobFailureReasons=many(
        {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded",
                  "PodFailurePolicy"]}
    ),
    targetReplicatedJobs=many(TEXT),
)  # fmt: skip
REPLICATED_JOB = record(
    "name",
    "template",
    name=NAME,
    replicas=NUMBER,
    groupName=NAME,
    dependsOn=many(record("name", "status", name=NAME, status={"enum": ["Ready", "Complete"]})),
    template=record("spec", metadata={"type": "object"}, spec={"type": "object"}),
)
JOBSET = record(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=METADATA,
    spec=record(
        "replicatedJobs",
        replicatedJobs=many(REPLICATED_JOB),
        network=record(enableDNSHostnames=FLAG, publishNotReadyAddresses=FLAG, subdomain=NAME),
        successPolicy=record("operator", operator={"enum": ["All", "Any"]}, targetReplicatedJobs=many(TEXT)),
        failurePolicy=record(
            maxRestarts=NUMBER,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules=many(RULE),
        ),
        startupPolicy=record(
            "startupPolicyOrder", startupPolicyOrder={"enum": ["AnyOrder", "InOrder"]}
        ),
        suspend=FLAG,
        coordinator=record("replicatedJob", replicatedJob=NAME, jobIndex=NUMBER, podIndex=NUMBER),
        managedBy=TEXT,
        ttlSecondsAfterFinished=NUMBER,
    ),
)  # fmt: skip


def kueue(kind, spec):
    """One of Kueue's objects."""
    version = {"const": "kueue.x-k8s.io/v1beta2"}
    fields = {"apiVersion": version, "kind": {"const": kind}, "metadata": METADATA, "spec": spec}
    return record(*fields, **fields)


QUOTA = record("name", "nominalQuota", name=TEXT, nominalQuota=QUANTITY, borrowingLimit=QUANTITY)
KUEUE = {
    "ResourceFlavor": kueue(
        "ResourceFlavor",
        record(
            nodeLabels=TEXTS,
            nodeTaints=many(record("key", "effect", key=TEXT, value=TEXT, effect=TEXT)),
            tolerations=many({"type": "object"}),
            topologyName=NAME,
        ),
    ),
    "ClusterQueue": kueue(
        "ClusterQueue",
        record(
            resourceGroups=many(
                record(
                    "coveredResources",
                    "flavors",
                    coveredResources=many(TEXT),
                    flavors=many(record("name", "resources", name=NAME, resources=many(QUOTA))),
                )
            ),
            namespaceSelector={"type": "object"},
            queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
            preemption={"type": "object"},
            cohortName=NAME,
        ),
    ),
    "LocalQueue": kueue("LocalQueue", record("clusterQueue", clusterQueue=NAME, stopPolicy=TEXT)),
}
