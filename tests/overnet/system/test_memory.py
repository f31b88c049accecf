import pytest

from overnet.system.memory import available_memory_bytes


@pytest.mark.parametrize(
    ("groups", "limit", "used"),
    [
        ("0::/\n", "memory.max", "memory.current"),
        ("0::/outer/inner\n", "outer/memory.max", "outer/memory.current"),
        ("5:memory:/box\n0::/\n", "memory/box/memory.limit_in_bytes", "memory/box/memory.usage_in_bytes"),
    ],
)
def test_available_memory_respects_a_container(tmp_path, groups, limit, used):
    assert available_memory_bytes() > 1 << 20
    for name, text in {
        "proc/self/cgroup": groups,
        f"sys/fs/cgroup/{limit}": "1000000\n",
        f"sys/fs/cgroup/{used}": "400000\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/inner/memory.current": "400000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory_bytes(tmp_path) == 600_000
    (tmp_path / f"sys/fs/cgroup/{used}").write_text("2000000\n")
    assert available_memory_bytes(tmp_path) == 0
