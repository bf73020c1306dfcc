"""The configuration of an HAProxy that does what an Application Load Balancer does.

Where both differ it follows AWS's user guide: docs.aws.amazon.com/elasticloadbalancing/latest/application/.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.aws.kind import Unknown

# Where the machine has the files.
FOLDER = "/srv/alb"
CONFIG, STATE, ADMIN, MASTER = "haproxy.cfg", "state", "admin.sock", "master.sock"
# What gets requests while no server is healthy: a load balancer then "fails open", and sends them to all.
OPEN = "open-"
SERVER = "hdr Server awselb/2.0"
CHECK_HEADERS = "hdr Host %[bc_dst]:%[bc_dst_port] hdr User-Agent ELB-HealthChecker/2.0 hdr Connection close"
REASONS = {502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}
ALGORITHMS = {"round_robin": "roundrobin", "least_outstanding_requests": "leastconn"}


@dataclass(frozen=True)
class State:
    """A load balancer as AWS describes it, by plain values of its API.

    listeners: each with its "Rules". groups: ARN -> target group with its "Attributes". certificates: ARN -> PEM.
    """

    attributes: Mapping[str, str]
    listeners: Sequence[Mapping[str, Any]]
    groups: Mapping[str, Mapping[str, Any]]
    certificates: Mapping[str, str]

    def mark(self) -> str:
        """Return a word that is another one for any other state."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()[:16]


def files(state: State, servers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return name -> text of each file. servers: backend -> lines of server_lines(). Raises Unknown."""
    made = {f"{status}.http": _error(status) for status in (502, 503, 504)}
    made["503.html"] = _page(503)
    made |= {f"{_name(arn)}.pem": text for arn, text in state.certificates.items()}
    rules = [rule for listener in state.listeners for rule in listener["Rules"]]
    for body in (each["Actions"][0].get("FixedResponseConfig", {}).get("MessageBody") for each in rules):
        if body:
            made[_body_file(body)] = body
    sections = [_global(state), *(_listener(state, each) for each in state.listeners)]
    sections += [_backend(group, servers.get(backend(group), ())) for group in state.groups.values()]
    made[CONFIG] = "\n".join(sections)
    return made


def backend(group: Mapping[str, Any]) -> str:
    """Return the name of a target group's backend."""
    return f"group-{group['TargetGroupName']}"


def server_lines(group: Mapping[str, Any], name: str, address: str) -> list[str]:
    """Return the words after `server` for a target: as it is checked, and as it is used when none is healthy."""
    check = f"check inter {group['HealthCheckIntervalSeconds']}s"
    check += f" fall {group['UnhealthyThresholdCount']} rise {group['HealthyThresholdCount']}"
    if slow := int(group["Attributes"]["slow_start.duration_seconds"]):
        check += f" slowstart {slow}s"
    cookie = f"cookie {hashlib.sha256(name.encode()).hexdigest()[:16]}" if _is_sticky(group) else ""
    return [f"{name} {address} {check} {cookie}".strip(), f"{OPEN}{name} {address} backup {cookie}".strip()]


def _is_sticky(group: Mapping[str, Any]) -> bool:
    given = group["Attributes"]
    if given["stickiness.enabled"] == "true" and given["stickiness.type"] != "lb_cookie":
        raise Unknown(f"stickiness.type {given['stickiness.type']}")
    return given["stickiness.enabled"] == "true"


def _global(state: State) -> str:
    idle = state.attributes.get("idle_timeout.timeout_seconds", "60")
    # An ALB gives up a connection to a target after 10 s, repeats none, and shares those that are open. A worker that
    # a reload ends says so to clients with its last response, and does not cut what they keep open.
    return f"""\
global
    description {state.mark()}
    stats socket {FOLDER}/{ADMIN} mode 666 level admin
    server-state-file {FOLDER}/{STATE}
    maxconn 2000
    tune.bufsize 81920

defaults
    mode http
    load-server-state-from-file global
    option idle-close-on-response
    retries 0
    http-reuse always
    timeout connect 10s
    timeout client {idle}s
    timeout http-request {idle}s
    timeout http-keep-alive {idle}s
    timeout server {idle}s
    timeout tunnel {idle}s
    errorfile 502 {FOLDER}/502.http
    # No connection to a target.
    errorfile 503 {FOLDER}/502.http
    errorfile 504 {FOLDER}/504.http
"""


def _listener(state: State, listener: Mapping[str, Any]) -> str:
    port, protocol = listener["Port"], listener["Protocol"]
    tls = ""
    if protocol == "HTTPS":
        certificates = " ".join(
            f"crt {FOLDER}/{_name(each['CertificateArn'])}.pem" for each in listener["Certificates"]
        )
        tls = f" ssl {certificates} alpn h2,http/1.1 ssl-min-ver {_oldest_tls(listener['SslPolicy'])}"
    lines = [
        f"bind :{port}{tls}",
        *_headers(state.attributes),
        f"http-request set-header X-Forwarded-Proto {protocol.lower()}",
        f"http-request set-header X-Forwarded-Port {port}",
    ]
    rules = sorted(listener["Rules"], key=lambda rule: float("inf") if rule["IsDefault"] else int(rule["Priority"]))
    # The first that matches counts; HAProxy would send responses before it looks at backends.
    lines += [
        f"http-request set-var(txn.rule) int({number}) if !{{ var(txn.rule) -m found }}{_condition(rule)}"
        for number, rule in enumerate(rules)
    ]
    actions = [_action(state, rule, number) for number, rule in enumerate(rules)]
    lines += sorted(actions, key=lambda line: line.startswith("use_backend"))
    return f"frontend port-{port}\n" + "".join(f"    {line}\n" for line in lines)


def _headers(attributes: Mapping[str, str]) -> Iterator[str]:
    if attributes.get("routing.http.drop_invalid_header_fields.enabled") == "true":
        yield "http-request del-header [^-A-Za-z0-9] -m reg"
    if (mode := attributes.get("routing.http.xff_header_processing.mode", "append")) != "append":
        raise Unknown(f"X-Forwarded-For: {mode}")
    yield 'http-request replace-header X-Forwarded-For (.*) "\\1, %[src]"'
    yield "http-request set-header X-Forwarded-For %[src] if !{ req.hdr(X-Forwarded-For) -m found }"


def _condition(rule: Mapping[str, Any]) -> str:
    """Return the conditions of a rule: each begins with a space."""
    text = ""
    for each in rule["Conditions"]:
        if each["Field"] == "host-header":
            values = [value.lower() for value in each["HostHeaderConfig"]["Values"]]
            sample = "req.hdr(Host),field(1,:),lower"
        elif each["Field"] == "path-pattern":
            values, sample = each["PathPatternConfig"]["Values"], "path"
        else:
            raise Unknown(f"condition {each['Field']}")
        text += f" {{ {sample} -m reg {' '.join(map(_regex, values))} }}"
    return text


def _regex(pattern: str) -> str:
    """Return a quoted regular expression: * is any text, ? any character, and all else itself."""
    wild = {"*": ".*", "?": "."}
    return (
        "'^" + "".join(wild.get(each) or (each if each.isalnum() else f"\\x{ord(each):02x}") for each in pattern) + "$'"
    )


def _action(state: State, rule: Mapping[str, Any], number: int) -> str:
    (action,) = rule["Actions"]
    chosen = f"if {{ var(txn.rule) -m int {number} }}"
    if action["Type"] == "forward":
        groups = [each["TargetGroupArn"] for each in action.get("ForwardConfig", {}).get("TargetGroups", ())]
        (group,) = groups or [action["TargetGroupArn"]]
        return f"use_backend {backend(state.groups[group])} {chosen}"
    if action["Type"] == "fixed-response":
        given = action["FixedResponseConfig"]
        body = f" content-type {given['ContentType']} file {FOLDER}/{_body_file(given['MessageBody'])}"
        body = body if given.get("MessageBody") else ""
        return f"http-request return status {given['StatusCode']}{body} {SERVER} {chosen}"
    if action["Type"] != "redirect":
        raise Unknown(f"action {action['Type']}")
    given = {key: value for key, value in action["RedirectConfig"].items() if value is not None}
    kept = {"Host": "#{host}", "Path": "/#{path}", "Query": "#{query}"}
    if given.keys() - {"Protocol", "Port", "StatusCode", *kept} or any(
        given.get(key, kept[key]) != kept[key] for key in kept
    ):
        raise Unknown(f"redirect {given}")
    location = f"{given['Protocol'].lower()}://%[req.hdr(Host),field(1,:)]:{given['Port']}%[pathq]"
    return f"http-request redirect location {location} code {given['StatusCode'].removeprefix('HTTP_')} {chosen}"


def _backend(group: Mapping[str, Any], servers: Sequence[str]) -> str:
    kinds = [group[key] for key in ("Protocol", "HealthCheckProtocol", "HealthCheckPort", "TargetType")]
    if kinds != ["HTTP", "HTTP", "traffic-port", "instance"]:
        raise Unknown(f"target group of {', '.join(kinds)}")
    given = group["Attributes"]
    lines = [
        f"balance {ALGORITHMS[given['load_balancing.algorithm.type']]}",
        "option allbackups",
        f"timeout check {group['HealthCheckTimeoutSeconds']}s",
        "option httpchk",
        f"http-check send meth GET uri {group['HealthCheckPath']} ver HTTP/1.1 {CHECK_HEADERS}",
        f"http-check expect status {group['Matcher']['HttpCode']}",
        f"http-request return status 503 content-type text/html file {FOLDER}/503.html {SERVER} if {{ nbsrv eq 0 }}",
    ]
    if _is_sticky(group):
        age = given["stickiness.lb_cookie.duration_seconds"]
        lines.append(f'cookie AWSALB insert maxidle {age}s attr "Max-Age={age}"')
    lines += [f"server {each}" for each in servers]
    return f"backend {backend(group)}\n" + "".join(f"    {line}\n" for line in lines)


def _oldest_tls(policy: str) -> str:
    for word, version in (("-TLS13-1-3", "TLSv1.3"), ("-TLS13-1-2", "TLSv1.2")):
        if word in policy:
            return version
    raise Unknown(f"TLS policy {policy}")


def _name(arn: str) -> str:
    return arn.rpartition("/")[2]


def _body_file(body: str) -> str:
    return f"{hashlib.sha256(body.encode()).hexdigest()[:16]}.body"


def _page(status: int) -> str:
    title = f"{status} {REASONS[status]}"
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n</body>\r\n</html>\r\n"
    )


def _error(status: int) -> str:
    page = _page(status)
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nServer: awselb/2.0\r\nContent-Type: text/html\r\n"
    return f"{head}Content-Length: {len(page)}\r\nConnection: keep-alive\r\n\r\n{page}"
