"""EnOSlib's Grid'5000 provider, as it is installed, against the stand-in and its nodes."""

from __future__ import annotations

CLUSTER = "paradoxe"


def wanted(enoslib, nodes=2, **settings):
    """A provider for some nodes of one cluster."""
    settings = {"job_name": "a test", "walltime": "00:10:00"} | settings
    conf = enoslib.G5kConf.from_settings(**settings)
    conf.add_machine(roles=["worker"], cluster=CLUSTER, nodes=nodes)
    return enoslib.G5k(conf.finalize())


def test_nodes_are_reserved_used_and_given_back(enoslib, grid5000):
    provider = wanted(enoslib)
    roles, networks = provider.init()
    try:
        assert sorted(host.address for host in roles["worker"]) == [
            f"{CLUSTER}-{number}.rennes.grid5000.fr" for number in (1, 2)
        ]
        assert str(networks["prod"][0].network) == f"{grid5000.testbed.prefix}.0/24"
        results = enoslib.run_command("whoami; hostname", roles=roles)
        assert {tuple(one.stdout.split()) for one in results} == {
            ("root", f"{CLUSTER}-{number}.rennes.grid5000.fr") for number in (1, 2)
        }
        (job,) = provider.jobs
        assert (job.state, job.walltime, job.types) == ("running", 600, ["origin=enoslib_g5k"])
    finally:
        provider.destroy(wait=True)
    assert provider.jobs == []
