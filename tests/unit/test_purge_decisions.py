"""Which Debian packages go when a host is torn down."""

from plugins.modules.ltxops_purge import Plan, parse_simulation, plan

#: As apt-get 2.6 says it.
SIMULATION = """\
NOTE: This is only a simulation!
Reading package lists...
The following packages will be REMOVED:
  nginx* nginx-common*
Purg nginx [1.22.1-9] [supervisor:amd64 ]
Remv nginx-common [1.22.1-9]
Purg libfoo:i386 [1.0]
"""


def test_what_apt_would_remove_is_read_from_its_simulation() -> None:
    assert parse_simulation(SIMULATION) == {"nginx", "nginx-common", "libfoo"}


def test_what_came_with_them_goes_and_what_was_there_before_stays() -> None:
    decided = plan({"nginx"}, {"nginx"}, {"nginx", "nginx-common", "libold"}, {"libold", "sudo"})
    assert decided == Plan({"nginx", "nginx-common"}, set())


def test_packages_that_somebody_needs_now_all_stay() -> None:
    decided = plan({"nginx", "git"}, {"nginx", "git", "certbot-nginx"}, {"nginx", "git"}, set())
    assert decided == Plan(set(), {"certbot-nginx"})
