//! Two home networks and what lies between them.

use anyhow::Result;

use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::Role;
use crate::process::Process;

/// Two home networks whose routers take unsolicited packets for their own (CAUSES.md L1): A, its router, what lies
/// between with the server, B's router, B.
pub(crate) struct Homes {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    pub(crate) between: Namespace,
    pub(crate) routers: [Namespace; 2],
}

impl Homes {
    pub(crate) fn new() -> Result<Self> {
        let bare = |address: [u8; 4]| Namespace::bare(address.into());
        let between = bare([192, 0, 2, 1])?;
        between.shell(
            "ip address add 192.0.2.1/32 dev lo; sysctl -qw net.ipv4.ip_forward=1; ip route add blackhole 192.168.0.0/16",
        )?;
        let home = |number: u8| -> Result<(Namespace, Namespace)> {
            let (host, router) = (bare([192, 168, number, 2])?, bare([203, 0, 113, number])?);
            router.shell(&format!("ip link add lan type veth peer name eth0 netns {}", host.name()))?;
            between.shell(&format!("ip link add r{number} type veth peer name wan netns {}", router.name()))?;
            between.shell(&format!(
                "ip link set r{number} up; ip address add 10.9.{number}.1/24 dev r{number};
                 ip route add 203.0.113.{number}/32 via 10.9.{number}.2 src 192.0.2.1"
            ))?;
            router.shell(&format!(
                "ip link set lan up; ip link set wan up; ip address add 192.168.{number}.1/24 dev lan;
                 ip address add 10.9.{number}.2/24 dev wan; ip address add 203.0.113.{number}/32 dev lo;
                 ip route add default via 10.9.{number}.1; sysctl -qw net.ipv4.ip_forward=1;
                 nft 'table ip n {{ chain p {{ type nat hook postrouting priority 100; oifname wan snat to 203.0.113.{number}; }};
                   chain f {{ type filter hook forward priority 0; iifname wan ct state new drop; }}; }}'"
            ))?;
            host.shell(&format!(
                "ip address add 192.168.{number}.2/24 dev eth0; ip link set eth0 up; ip route add default via 192.168.{number}.1
                 for i in $(seq 300); do ip link show eth0 | grep -q 'state UP' && exit 0; sleep 0.01; done; exit 1"
            ))?;
            Ok((host, router))
        };
        let ((a, first), (b, second)) = (home(1)?, home(2)?);
        Ok(Self { a, b, between, routers: [first, second] })
    }

    /// Has both routers drop what comes for themselves, as home routers do.
    pub(crate) fn drop_unasked(&self) -> Result<()> {
        const DROP: &str =
            "nft 'table ip i { chain i { type filter hook input priority 0; iifname wan meta l4proto udp drop; }; }'";
        self.routers.iter().try_for_each(|router| router.shell(DROP))
    }

    /// A session with these arguments on both sides: A's account.
    pub(crate) fn session(&self, more: &[&str]) -> Result<Account> {
        self.session_with(more, more)
    }

    /// The same with other arguments on either side.
    pub(crate) fn session_with(&self, of_a: &[&str], of_b: &[&str]) -> Result<Account> {
        Ok(self.both(of_a, of_b)?.0)
    }

    /// The same: the accounts of A and of B.
    pub(crate) fn both(&self, of_a: &[&str], of_b: &[&str]) -> Result<(Account, Account)> {
        let server = Server::start(&self.between, &["--no-turn"])?;
        let start = |namespace: &Namespace, role: Role, more: &[&str]| {
            let mut command = ours::peer(namespace, role, server.url());
            Process::start(role.name(), command.args(["--no-turn", "--no-tcp"]).args(more))
        };
        let answerer = start(&self.b, Role::Answerer, of_b)?;
        let account = Account::of(start(&self.a, Role::Offerer, of_a)?)?;
        Ok((account, Account::of(answerer)?))
    }
}
