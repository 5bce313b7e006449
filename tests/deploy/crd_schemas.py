"""JSON Schemas of the custom resources that deploy/kubernetes uses: what it writes of them, and nothing else.

By the public documentation of Prometheus Operator (monitoring.coreos.com/v1), KEDA 2 (keda.sh/v1alpha1), Istio
(networking.istio.io/v1) and cert-manager (cert-manager.io/v1): an unknown field is an error here, as it is for the API
server with strict validation.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Schema = {"type": "integer", "minimum": 0}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$"}


def fields(required: str = "", **known: Schema) -> Schema:
    """An object with these fields and no others."""
    return {"type": "object", "properties": known, "required": required.split(), "additionalProperties": False}


def lists(of: Schema) -> Schema:
    """At least one of them."""
    return {"type": "array", "items": of, "minItems": 1}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _resource(version: str, kind: str, spec: Schema) -> Schema:
    metadata = fields("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    known = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
    return fields("apiVersion kind metadata spec", **known)


_RELABELING = fields(
    "targetLabel",
    sourceLabels=lists(TEXT),
    targetLabel=TEXT,
    regex=TEXT,
    replacement=TEXT,
    action=_one_of("replace", "keep", "drop", "labelmap"),
)
_ENDPOINT = fields(
    "port", port=TEXT, path=TEXT, interval=DURATION, scrapeTimeout=DURATION, relabelings=lists(_RELABELING)
)
_RULE = fields("expr", alert=TEXT, record=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS, **{"for": DURATION})
_GROUP = fields("name rules", name=TEXT, interval=DURATION, rules=lists(_RULE))

_POLICY = fields("type value periodSeconds", type=_one_of("Pods", "Percent"), value=COUNT, periodSeconds=COUNT)
_SCALING = fields(
    stabilizationWindowSeconds=COUNT, selectPolicy=_one_of("Max", "Min", "Disabled"), policies=lists(_POLICY)
)
_HPA = fields(behavior=fields(scaleUp=_SCALING, scaleDown=_SCALING), name=TEXT)
_QUERY = fields(
    "type metadata",
    type=_one_of("prometheus"),
    name=TEXT,
    metricType=_one_of("AverageValue", "Value"),
    metadata=fields("serverAddress query threshold", serverAddress=TEXT, query=TEXT, threshold=TEXT),
)
_CPU = fields(
    "type metricType metadata",
    type=_one_of("cpu"),
    name=TEXT,
    metricType=_one_of("Utilization", "AverageValue"),
    metadata=fields("value", value=TEXT),
)
_TRIGGER = {"oneOf": [_QUERY, _CPU]}
_FALLBACK = fields(
    "failureThreshold replicas",
    failureThreshold=COUNT,
    replicas=COUNT,
    behavior=_one_of("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"),
)

_DESTINATION = fields("host", host=TEXT, subset=TEXT, port=fields("number", number=COUNT))
_MATCH = fields(exact=TEXT, prefix=TEXT, regex=TEXT)
_HTTP = fields(
    match=lists(fields(uri=_MATCH, headers={"type": "object", "additionalProperties": _MATCH})),
    route=lists(fields("destination", destination=_DESTINATION, weight=COUNT)),
    mirror=_DESTINATION,
    mirrorPercentage=fields("value", value={"type": "number", "minimum": 0, "maximum": 100}),
    retries=fields("attempts", attempts=COUNT, retryOn=TEXT, perTryTimeout=DURATION),
    timeout=DURATION,
)
_OUTLIERS = fields(consecutive5xxErrors=COUNT, interval=DURATION, baseEjectionTime=DURATION, maxEjectionPercent=COUNT)
_POOL = fields(tcp=fields(connectTimeout=DURATION, maxConnections=COUNT), http=fields(idleTimeout=DURATION))
_BALANCER = fields(simple=_one_of("LEAST_REQUEST", "ROUND_ROBIN", "RANDOM", "PASSTHROUGH"))

_ISSUER = {"oneOf": [fields("selfSigned", selfSigned=fields()), fields("ca", ca=fields("secretName", secretName=TEXT))]}
_PRIVATE_KEY = fields(
    "algorithm", algorithm=_one_of("RSA", "ECDSA", "Ed25519"), size=COUNT, rotationPolicy=_one_of("Never", "Always")
)
_CERTIFICATE = fields(
    "secretName issuerRef",
    isCA={"type": "boolean"},
    commonName=TEXT,
    dnsNames=lists(TEXT),
    secretName=TEXT,
    duration=DURATION,
    renewBefore=DURATION,
    privateKey=_PRIVATE_KEY,
    usages=lists(_one_of("digital signature", "key encipherment", "client auth", "server auth")),
    issuerRef=fields("name kind", name=TEXT, kind=_one_of("Issuer", "ClusterIssuer")),
)

SCHEMAS: dict[str, Schema] = {
    "Issuer": _resource("cert-manager.io/v1", "Issuer", _ISSUER),
    "Certificate": _resource("cert-manager.io/v1", "Certificate", _CERTIFICATE),
    "ServiceMonitor": _resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        fields("selector endpoints", selector=fields(matchLabels=TEXTS), endpoints=lists(_ENDPOINT)),
    ),
    "PrometheusRule": _resource("monitoring.coreos.com/v1", "PrometheusRule", fields("groups", groups=lists(_GROUP))),
    "ScaledObject": _resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        fields(
            "scaleTargetRef triggers",
            scaleTargetRef=fields("name", apiVersion=TEXT, kind=TEXT, name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
            fallback=_FALLBACK,
            advanced=fields(horizontalPodAutoscalerConfig=_HPA),
            triggers=lists(_TRIGGER),
        ),
    ),
    "VirtualService": _resource(
        "networking.istio.io/v1", "VirtualService", fields("hosts http", hosts=lists(TEXT), http=lists(_HTTP))
    ),
    "DestinationRule": _resource(
        "networking.istio.io/v1",
        "DestinationRule",
        fields(
            "host",
            host=TEXT,
            trafficPolicy=fields(loadBalancer=_BALANCER, connectionPool=_POOL, outlierDetection=_OUTLIERS),
            subsets=lists(fields("name labels", name=TEXT, labels=TEXTS)),
        ),
    ),
}
"""By kind."""
