"""The manifests of deploy/kubernetes: whole, valid, and true to what the processes do."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.commands.run import CELERY, OWN
from deploy.gateway.process import DRAIN_S
from deploy.kubernetes import generate
from deploy.machine.processes import CELERY_GRACE_S
from deploy.settings import PlatformSettings
from serving.drain import DrainRule
from serving.tls.settings import parse_fleet_tls
from tests.deploy.crd_schemas import SCHEMAS
from tests.kustomize import Object, build, by_kind, normal, the
from tests.metric_catalogue import series
from tests.prometheus_tools import tool

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
NAMES = sorted(path.name for path in (FOLDER / "overlays").iterdir() if "." not in path.name)  # none of a release
FOLDERS = ["base", "adapter", *(f"overlays/{name}" for name in NAMES)]
OVERLAYS = [name for name in FOLDERS if name != "adapter"]
KUBERNETES = "1.34"
OURS = "app.kubernetes.io/name"


def deployments(name: str) -> list[Object]:
    found = by_kind(build(FOLDER / name), "Deployment")
    return [one for one in found if one["metadata"]["labels"].get(OURS) == "sluice"]


def container_of(deployment: Object) -> Object:
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def ports_of(container: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """What a container is told; a value that only the cluster knows is its field's path."""
    told: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        told |= the(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for one in container.get("env", ()):
        told[one["name"]] = one["value"] if "value" in one else one["valueFrom"]["fieldRef"]["fieldPath"]
    return told


def pair_of(told: dict[str, str]) -> set[str]:
    """Paths of what a process shows of itself, and trusts, if it speaks TLS with the fleet."""
    if "SLUICE_FLEET_TLS" not in told:
        return set()
    return {str(path) for path in parse_fleet_tls(told["SLUICE_FLEET_TLS"]).files.all()}


def selected(selector: Object, labels: dict[str, str]) -> bool:
    matches = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In"
        matches = matches and labels.get(one["key"]) in one["values"]
    return matches


def pod_labels(objects: list[Object]) -> list[dict[str, str]]:
    workloads = by_kind(objects, "Deployment") + by_kind(objects, "StatefulSet")
    return [one["spec"]["template"]["metadata"]["labels"] for one in workloads]


@pytest.mark.parametrize("name", FOLDERS)
def test_kubectl_builds_what_these_tests_look_at(name: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl: the other tests look at what tests.kustomize builds")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def comparable(objects: list[Object]) -> list[str]:
        for one in by_kind(objects, "Secret"):
            one["data"] = {key: "".join(value.split()) for key, value in one["data"].items()}
        return sorted(json.dumps(normal(one), sort_keys=True) for one in objects)

    assert comparable(build(FOLDER / name)) == comparable(list(yaml.load_all(done.stdout, yaml.CSafeLoader)))


@pytest.mark.parametrize("name", FOLDERS)
def test_every_object_fits_its_schema(name: str) -> None:
    for one in build(FOLDER / name):
        if one["kind"] in SCHEMAS:
            jsonschema.validate(one, SCHEMAS[one["kind"]])
        else:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize(("kind", "field"), [("Deployment", "replica"), ("PrometheusRule", "group")])
def test_a_field_that_does_not_exist_is_seen(kind: str, field: str) -> None:
    one = by_kind(build(FOLDER / "base"), kind)[0]
    one["spec"][field] = 3
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        if kind in SCHEMAS:
            jsonschema.validate(one, SCHEMAS[kind])
        else:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_process_of_a_fleet_is_there_and_is_one_that_can_be_run(name: str) -> None:
    run = [container_of(one).get("args") for one in deployments(name)]

    assert {args[1] for args in run} == set(OWN) | set(CELERY)
    assert all(args[0] == "run" for args in run)


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_variable_is_a_setting_and_all_settings_hold_together(name: str) -> None:
    objects = build(FOLDER / name)
    known = {f"SLUICE_{field.name.upper()}" for field in dataclasses.fields(PlatformSettings)}
    for deployment in deployments(name):
        told = environment(objects, container_of(deployment))
        secret = {key for key in told if key.endswith("_FILE")}
        assert {key.removesuffix("_FILE") for key in told} <= known | {"SLUICE_URL", "SLUICE_KEY"}
        plain = {key: "10.0.0.1" if value == "status.podIP" else value for key, value in told.items()}
        settings = PlatformSettings.from_environment({key: plain[key] for key in plain if key not in secret})
        assert settings.queries_need_keys
        assert settings.controller_address.endswith(":8720")


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_secret_is_mounted_only_where_a_setting_names_its_file(name: str) -> None:
    objects = build(FOLDER / name)
    for deployment in deployments(name):
        container, told = container_of(deployment), environment(objects, container_of(deployment))
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        mounted = {
            f"{mounts[volume['name']]}/{item['path']}"
            for volume in deployment["spec"]["template"]["spec"]["volumes"]
            for item in volume.get("secret", {}).get("items", ())
        }
        named = {value for key, value in told.items() if key.endswith("_FILE") and value.startswith("/run/secrets/")}
        named |= pair_of(told)
        assert mounted == named, deployment["metadata"]["name"]


def test_gateways_and_workers_show_each_a_certificate_of_the_role_that_the_other_looks_for() -> None:
    objects = build(FOLDER / "overlays/mtls")
    issued = {one["spec"]["secretName"]: one["spec"] for one in by_kind(objects, "Certificate")}
    shown = {}
    for deployment in deployments("overlays/mtls"):
        told = environment(objects, container_of(deployment))
        if "SLUICE_FLEET_TLS" not in told:
            continue
        fleet = parse_fleet_tls(told["SLUICE_FLEET_TLS"])
        volumes = {one["name"]: one for one in deployment["spec"]["template"]["spec"]["volumes"]}
        certificate = issued[volumes["fleet-tls"]["secret"]["secretName"]]
        role = container_of(deployment)["args"][1]
        shown[role] = certificate["dnsNames"], certificate["usages"][-1]
        looked_for = {"gateway": fleet.gateway, "worker": fleet.worker}
        assert certificate["dnsNames"] == [looked_for[role]]

    assert shown == {"gateway": (["sluice-gateway"], "client auth"), "worker": (["sluice-worker"], "server auth")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_ports_are_those_that_the_settings_open(name: str) -> None:
    objects = build(FOLDER / name)
    for deployment in deployments(name):
        container = container_of(deployment)
        told = environment(objects, container)
        opened = {"probes": int(told["SLUICE_PROBE_ADDRESS"].rpartition(":")[2])}
        match container["args"][1]:
            case "gateway":
                opened |= {"http": int(told["SLUICE_GATEWAY_PORT"]), "grpc": int(told["SLUICE_GRPC_PORT"])}
            case "worker":
                opened |= {"frames": int(told["SLUICE_WORKER_PORT"])}
            case "controller":
                opened |= {"control": int(told["SLUICE_CONTROL_ADDRESS"].rpartition(":")[2])}
        assert ports_of(container) == opened


@pytest.mark.parametrize("name", OVERLAYS)
def test_probes_ask_paths_that_there_are(name: str) -> None:
    there = {"probes": {"/live", "/ready"}, "http": {"/health", "/v2/health/live", "/v2/health/ready"}}
    for deployment in deployments(name):
        container = container_of(deployment)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["path"] in there[asked["port"]] and asked["port"] in ports_of(container)


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_run_without_rights_and_write_only_where_a_volume_is(name: str) -> None:
    for workload in by_kind(build(FOLDER / name), "Deployment") + by_kind(build(FOLDER / name), "StatefulSet"):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_our_images_are_pulled_only_where_a_node_has_none(name: str) -> None:
    for workload in by_kind(build(FOLDER / name), "Deployment") + by_kind(build(FOLDER / name), "StatefulSet"):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            if container["image"].startswith("sluice-"):
                assert container["imagePullPolicy"] == "IfNotPresent", workload["metadata"]["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_whoever_selects_pods_selects_some(name: str) -> None:
    objects = build(FOLDER / name)
    labels = pod_labels(objects)
    for workload in by_kind(objects, "Deployment") + by_kind(objects, "StatefulSet"):
        own = [one for one in labels if selected(workload["spec"]["selector"], one)]
        assert own == [workload["spec"]["template"]["metadata"]["labels"]], workload["metadata"]["name"]
    for service in by_kind(objects, "Service"):
        chosen = [one for one in labels if selected({"matchLabels": service["spec"]["selector"]}, one)]
        assert chosen, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            containers = [
                container
                for workload in by_kind(objects, "Deployment") + by_kind(objects, "StatefulSet")
                if workload["spec"]["template"]["metadata"]["labels"] in chosen
                for container in workload["spec"]["template"]["spec"]["containers"]
            ]
            assert all(port["targetPort"] in ports_of(container) for container in containers)
    for policy in by_kind(objects, "NetworkPolicy"):
        assert any(selected(policy["spec"]["podSelector"], one) for one in labels)
    for budget in by_kind(objects, "PodDisruptionBudget"):
        assert any(selected(budget["spec"]["selector"], one) for one in labels)
    for monitor in by_kind(objects, "ServiceMonitor"):
        services = [one for one in by_kind(objects, "Service") if "labels" in one["metadata"]]
        assert any(selected(monitor["spec"]["selector"], one["metadata"]["labels"]) for one in services)


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_disruption_budget_leaves_pods_that_may_go_and_one_that_stays(name: str) -> None:
    objects = build(FOLDER / name)
    scaled = {one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in by_kind(objects, "HorizontalPodAutoscaler")}
    scaled |= {one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in by_kind(objects, "ScaledObject")}
    for budget in by_kind(objects, "PodDisruptionBudget"):
        target = scaled[budget["metadata"]["name"]]
        least = target.get("minReplicas", target.get("minReplicaCount"))
        assert 1 <= budget["spec"]["maxUnavailable"] < least <= target.get("maxReplicas", target.get("maxReplicaCount"))
    for deployment in deployments(name):
        if deployment["metadata"]["name"] in scaled:
            assert "replicas" not in deployment["spec"]  # the autoscaler's, or each apply would set them back


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_have_as_long_to_end_as_their_processes_take(name: str) -> None:
    takes = {"gateway": 2 * DRAIN_S + 10, "worker": DrainRule().grace_s + 5, "controller": DRAIN_S + 5}
    takes |= {"archiver": 10, "monitor": 10} | dict.fromkeys(CELERY, CELERY_GRACE_S)
    for deployment in deployments(name):
        container, pod = container_of(deployment), deployment["spec"]["template"]["spec"]
        before_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] >= before_s + takes[container["args"][1]]
        if container["args"][1] == "gateway":
            assert before_s >= 5  # until nobody sends any more


def allowed(objects: list[Object], source: str, target: str, port: int) -> bool:
    """Whether policies let pods of one component connect to a port of those of another."""
    labels = {one["app.kubernetes.io/component"]: one for one in pod_labels(objects) if one.get(OURS) == "sluice"}

    def lets(direction: str, at: str, peer: str, other: str) -> bool:
        for policy in by_kind(objects, "NetworkPolicy"):
            if not selected(policy["spec"]["podSelector"], labels[at]):
                continue
            for rule in policy["spec"].get(direction, ()):
                peers = rule.get(peer)
                fits = peers is None or any(
                    "podSelector" in one and selected(one["podSelector"], labels[other]) for one in peers
                )
                if fits and any(one["port"] == port for one in rule["ports"]):
                    return True
        return False

    return lets("ingress", target, "from", source) and lets("egress", source, "to", target)


def test_nobody_reaches_what_he_need_not_and_everybody_what_he_must() -> None:
    objects = build(FOLDER / "base")
    components = [*OWN, *CELERY]
    wanted = {("gateway", "worker", 8710), ("gateway", "controller", 8720), ("controller", "gateway", 8700)}

    found = {
        (source, target, port)
        for source in components
        for target in components
        for port in (8700, 8702, 8710, 8720, 8790)
        if source != target and allowed(objects, source, target, port)
    }

    assert found == wanted
    [everybody] = [one for one in by_kind(objects, "NetworkPolicy") if one["metadata"]["name"] == "sluice-default-deny"]
    assert set(everybody["spec"]["policyTypes"]) == {"Ingress", "Egress"} and "ingress" not in everybody["spec"]
    assert all(selected(everybody["spec"]["podSelector"], one) for one in pod_labels(objects))


# --- what is measured -----------------------------------------------------------------------------------------------


def adapter_rules() -> tuple[dict[str, Object], dict[str, Object]]:
    told = yaml.safe_load((FOLDER / "adapter" / "config.yaml").read_text())
    return tuple({one["name"]["as"]: one for one in told[key]} for key in ("externalRules", "rules"))  # type: ignore[return-value]


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\b(?:serving|drift|pipelines|deploy)_[a-z0-9_]+\b", query))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_metric_of_an_autoscaler_is_one_that_the_adapter_makes(name: str) -> None:
    external, of_pods = adapter_rules()
    asked = [
        (metric["type"], metric[metric["type"].lower()])
        for scaler in by_kind(build(FOLDER / name), "HorizontalPodAutoscaler")
        for metric in scaler["spec"]["metrics"]
    ]
    for kind, one in asked:
        match kind:
            case "External":
                assert one["metric"]["name"] in external
            case "Pods":
                assert one["metric"]["name"] in of_pods
            case _:
                assert one["name"] == "cpu"
    assert asked or name == "overlays/keda"


def test_every_query_of_adapter_and_keda_is_of_metrics_that_there_are_and_can_be_parsed(tmp_path: Path) -> None:
    external, of_pods = adapter_rules()
    queries = [
        one[key].replace("<<.LabelMatchers>>", 'namespace="sluice"').replace("<<.GroupBy>>", "namespace,pod")
        for one in (*external.values(), *of_pods.values())
        for key in ("seriesQuery", "metricsQuery")
    ]
    for scaler in by_kind(build(FOLDER / "overlays" / "keda"), "ScaledObject"):
        queries += [one["metadata"]["query"] for one in scaler["spec"]["triggers"] if one["type"] == "prometheus"]
    there = series()
    for query in queries:
        assert names_in(query) and names_in(query) <= set(there), query
        labels = set().union(*(there[name] for name in names_in(query))) | {"namespace", "pod"}
        assert set(re.findall(r'(\w+)(?:!?=~?)"', query)) <= labels, query
    rules = [{"record": f"q:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        [tool("promtool"), "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "least", "most"), [("sluice-worker", 8, 32), ("sluice-gateway", 2, 16)])
def test_keda_scales_as_the_autoscaler_that_it_takes_the_place_of(name: str, least: int, most: int) -> None:
    gpu = the(build(FOLDER / "overlays" / "gpu"), "HorizontalPodAutoscaler", name)["spec"]
    keda = build(FOLDER / "overlays" / "keda")
    spec = the(keda, "ScaledObject", name)["spec"]

    assert by_kind(keda, "HorizontalPodAutoscaler") == []  # they would want the adapter
    assert spec["scaleTargetRef"] == gpu["scaleTargetRef"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (gpu["minReplicas"], gpu["maxReplicas"])
    assert (least, most) == (gpu["minReplicas"], gpu["maxReplicas"])
    assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == gpu["behavior"]
    asked = [one[one["type"].lower()]["target"] for one in gpu["metrics"]]
    wanted = [
        (one["type"], quantity(str(one.get("value") or one.get("averageValue") or one["averageUtilization"])))
        for one in asked
    ]
    told = [
        (trigger["metricType"], float(trigger["metadata"].get("threshold") or trigger["metadata"]["value"]))
        for trigger in spec["triggers"]
    ]
    assert told == wanted


def test_what_the_adapter_is_given_takes_the_place_of_nobodys_configuration() -> None:
    [made] = build(FOLDER / "adapter")

    assert made["metadata"]["name"] == "sluice-adapter-config"  # kube-prometheus has an `adapter-config` there


def quantity(text: str) -> float:
    """
    >>> quantity("10m"), quantity("300")
    (0.01, 300.0)
    """
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


def test_the_prometheus_rule_is_made_of_the_rules_that_everybody_has(tmp_path: Path) -> None:
    assert generate.MADE.read_text() == generate.prometheus_rule()  # python -m deploy.kubernetes.generate
    rule = by_kind(build(FOLDER / "base"), "PrometheusRule")[0]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"], width=1000))

    done = subprocess.run(
        [tool("promtool"), "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_gateways_are_the_job_that_alerts_look_at() -> None:
    [monitor] = by_kind(build(FOLDER / "base"), "ServiceMonitor")
    jobs = {}
    for component in (*OWN, *CELERY):
        labels = {"__meta_kubernetes_pod_label_app_kubernetes_io_component": component, "job": "sluice-metrics"}
        for rule in monitor["spec"]["endpoints"][0]["relabelings"]:
            value = ";".join(labels[name] for name in rule["sourceLabels"])
            if found := re.fullmatch(rule.get("regex", "(.*)"), value):
                labels[rule["targetLabel"]] = found.expand(rule["replacement"].replace("$", "\\"))
        jobs[component] = labels["job"]

    assert jobs["gateway"] == "sluice" and jobs["worker"] == "sluice-worker"
    assert len(set(jobs.values())) == len(jobs)
    alerts = (FOLDER.parent / "prometheus" / "rules" / "alerts.yml").read_text()
    assert set(re.findall(r'job="([^"]+)"', alerts)) == {"sluice"}


# --- overlays -------------------------------------------------------------------------------------------------------


def test_a_gpu_worker_has_one_gpu_and_a_sliced_one_a_slice() -> None:
    def worker(name: str) -> Any:
        return the(build(FOLDER / "overlays" / name), "Deployment", "sluice-worker")["spec"]["template"]["spec"]

    whole, sliced = (worker(name)["containers"][0]["resources"]["limits"] for name in ("gpu", "gpu-mig"))
    assert whole["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in sliced
    assert [key for key in sliced if re.fullmatch(r"nvidia\.com/mig-\d+g\.\d+gb", key)] and set(sliced.values()) >= {1}
    assert worker("gpu-mig")["nodeSelector"]["nvidia.com/mig.capable"] == "true"
    devices = {one["name"]: one.get("value") for one in worker("gpu")["containers"][0]["env"]}
    assert devices["SLUICE_DEVICE"] == "cuda"


def test_the_canary_is_the_gateway_but_for_label_and_image() -> None:
    objects = build(FOLDER / "overlays" / "istio")
    stable, canary = (
        the(objects, "Deployment", name)["spec"]["template"] for name in ("sluice-gateway", "sluice-gateway-canary")
    )

    assert canary["metadata"]["labels"] == stable["metadata"]["labels"] | {"version": "canary"}
    as_canary = json.loads(
        json.dumps(stable)
        .replace('"version": "stable"', '"version": "canary"')
        .replace("sluice-gateway", "sluice-gateway-canary")
    )
    assert as_canary == canary


def test_gateways_alone_have_sidecars_and_those_reach_istiod() -> None:
    objects = build(FOLDER / "overlays" / "istio")
    policy = the(objects, "NetworkPolicy", "sluice-gateway-to-istiod")["spec"]

    for labels in pod_labels(objects):
        gateway = labels["app.kubernetes.io/component"] == "gateway"
        assert labels["sidecar.istio.io/inject"] == ("true" if gateway else "false")
        assert selected(policy["podSelector"], labels) == gateway
    [rule] = policy["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 15012}]


def test_istio_shifts_and_mirrors_between_subsets_that_there_are() -> None:
    objects = build(FOLDER / "overlays" / "istio")
    [virtual], [rule] = by_kind(objects, "VirtualService"), by_kind(objects, "DestinationRule")
    subsets = {one["name"]: one["labels"] for one in rule["spec"]["subsets"]}
    hosts = {one["metadata"]["name"] for one in by_kind(objects, "Service")}

    for route in virtual["spec"]["http"]:
        targets = [one["destination"] for one in route["route"]] + ([route["mirror"]] if "mirror" in route else [])
        assert all(one["subset"] in subsets and one["host"] in hosts for one in targets)
        weights = [one["weight"] for one in route["route"] if "weight" in one]
        assert not weights or sum(weights) == 100
    labels = [one for one in pod_labels(objects) if one.get("app.kubernetes.io/component") == "gateway"]
    for wanted in subsets.values():
        assert len([one for one in labels if selected({"matchLabels": wanted}, one)]) == 1
    assert any("mirror" in route for route in virtual["spec"]["http"])
