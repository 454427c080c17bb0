"""With tokens on, as every manifest has them, who has none is refused at each door of a real Ray."""

from __future__ import annotations

import sys

import pytest

from tests.deploy.ray_head import ray_head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

JOIN = "import ray; ray.init(address='{}', log_to_driver=False); print('joined', sorted(ray.cluster_resources())[:1])"
JOBS = ("ray", "job", "list", "--address")


def test_without_the_token_nobody_gets_in():
    with ray_head(token="a-token-of-forty-two-characters-at-the-least") as head:
        listed = head.command(*JOBS, head.dashboard)
        assert listed.returncode == 0, listed.stderr
        refused = head.command(*JOBS, head.dashboard, token=False)
        assert refused.returncode != 0
        assert "token" in (refused.stdout + refused.stderr).lower()

        joined = head.command(sys.executable, "-c", JOIN.format(head.gcs))
        assert "joined" in joined.stdout, joined.stderr
        stranger = head.command(sys.executable, "-c", JOIN.format(head.gcs), token=False)
        assert stranger.returncode != 0
        assert "joined" not in stranger.stdout
        assert "token" in stranger.stderr.lower()
