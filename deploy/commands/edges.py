"""`sluice edges nginx|kong`: what stands in front of several gateways."""

from typing import Annotated

import typer

from deploy.edges.edge import Edge, GatewayPlace

edges = typer.Typer(
    help="Configurations of what stands in front of several gateways: nginx, kong.", no_args_is_help=True
)

Gateways = Annotated[
    list[str], typer.Option("--gateway", help="host, host:port or host:port:grpc-port of one gateway; repeat it.")
]
KeyRate = Annotated[int, typer.Option(help="Requests a second of one key or token.")]
AddressRate = Annotated[int, typer.Option(help="Requests a second of one address.")]


@edges.command()
def nginx(
    gateways: Gateways,
    listen: Annotated[int, typer.Option(help="Port of HTTP.")] = 8080,
    grpc_listen: Annotated[int, typer.Option(help="Port of gRPC.")] = 8081,
    key_rate: KeyRate = 500,
    address_rate: AddressRate = 1000,
    burst_s: Annotated[int, typer.Option(help="How many seconds' worth may come at once.")] = 2,
    certificate: Annotated[str, typer.Option(help="For TLS at both ports; with its chain.")] = "",
    key: Annotated[str, typer.Option(help="The certificate's.")] = "",
    gateway_ca: Annotated[str, typer.Option(help="Gateways speak TLS, with certificates of this authority.")] = "",
    gateway_name: Annotated[str, typer.Option(help="The name in the gateways' certificates.")] = "sluice-gateway",
    access_log: Annotated[str, typer.Option(help="A path, or one in nginx's folder.")] = "access.log",
) -> None:
    """An nginx.conf for HTTP and gRPC, on standard output."""
    from deploy.edges.nginx import nginx_conf

    edge = Edge(
        gateways=tuple(map(GatewayPlace.parse, gateways)),
        listen=listen,
        grpc_listen=grpc_listen,
        key_rate=key_rate,
        address_rate=address_rate,
        burst_s=burst_s,
        certificate=certificate,
        key=key,
        gateway_ca=gateway_ca,
        gateway_name=gateway_name,
        access_log=access_log,
    )
    typer.echo(nginx_conf(edge), nl=False)


@edges.command()
def kong(
    gateways: Gateways,
    key_rate: KeyRate = 500,
    gateway_ca: Annotated[
        str, typer.Option(help="Gateways speak TLS; Kong is told their authority by its own setting.")
    ] = "",
    gateway_name: Annotated[str, typer.Option(help="The name in the gateways' certificates.")] = "sluice-gateway",
) -> None:
    """A declarative configuration for Kong 3, on standard output."""
    from deploy.edges.kong import kong_yml

    places = tuple(map(GatewayPlace.parse, gateways))
    edge = Edge(gateways=places, key_rate=key_rate, gateway_ca=gateway_ca, gateway_name=gateway_name)
    typer.echo(kong_yml(edge), nl=False)
