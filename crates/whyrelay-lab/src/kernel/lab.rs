//! A lab that is up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use whyrelay_core::random::Random;

use super::command::{ip, ip_batch, nft, programs, run};
use super::conntrack;
use super::error::LabError;
use super::mapping::MappingServer;
use super::namespace::enter;
use super::nft::load;
use super::plan::{Cable, Fabric, Node, Plan, container_end};
use super::router::{INSIDE, OUTSIDE, Router};
use super::state::{self, Held, Record};
use super::tun::{Device, Kind};
use super::wire::Wire;

/// No host can have a name with a plus.
const FABRIC: &str = "+fabric";

/// How often a lab's removal is tried.
const REMOVALS: u8 = 3;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Namespaces with what connects them. Dropped, everything is removed, with every process in it.
#[derive(Debug)]
pub struct Lab {
    record: Record,
    /// As long as it is there, nobody else removes what the record says.
    _held: Held,
    nodes: Vec<String>,
    routers: Vec<Router>,
    wires: Vec<Wire>,
    mappers: Vec<MappingServer>,
    /// Held open, so that they stay.
    sinks: Vec<Device>,
}

impl Lab {
    /// Makes it all.
    ///
    /// # Errors
    /// When a program is missing or says no; nothing is left then.
    pub fn up(plan: Plan) -> Result<Self, LabError> {
        Self::up_unless(plan, &AtomicBool::new(false))
    }

    /// The same, given up as soon as a flag is set.
    ///
    /// # Errors
    /// When a program is missing or says no, or the flag is set; nothing is left then.
    pub fn up_unless(plan: Plan, interrupted: &AtomicBool) -> Result<Self, LabError> {
        LabError::if_set(interrupted)?;
        // Nothing is written down of what cannot be made, nor removed.
        programs()?;
        let id = state::id(COUNTER.fetch_add(1, Ordering::Relaxed));
        let nodes: Vec<String> = plan.nodes.iter().map(|node| node.name.clone()).collect();
        let names = nodes.iter().map(|name| format!("{id}-{name}")).chain([format!("{id}{FABRIC}")]).collect();
        let record = Record::new(id, &plan.scenario, names);
        let held = record.write()?;
        let mut lab = Self {
            record,
            _held: held,
            nodes,
            routers: Vec::new(),
            wires: Vec::new(),
            mappers: Vec::new(),
            sinks: Vec::new(),
        };
        lab.build(plan, interrupted).map_err(|error| error.or_interrupted(interrupted))?;
        Ok(lab)
    }

    /// The name of a host's, a router's or the server's namespace, as `ip netns` knows it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn namespace(&self, name: &str) -> Result<String, LabError> {
        if self.nodes.iter().any(|node| node == name) {
            return Ok(format!("{}-{name}", self.record.id));
        }
        Err(LabError::Unknown { name: name.to_owned(), known: self.nodes.join(", ") })
    }

    /// A command that will run a program on a host, a router or the server.
    ///
    /// # Errors
    /// When there is no such node, or no `ip`.
    pub fn command(&self, name: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, LabError> {
        let mut command = Command::new(ip()?);
        command.args(["netns", "exec", &self.namespace(name)?]).arg(program);
        Ok(command)
    }

    /// Runs something on a thread inside a node's namespace: sockets that it opens and processes that it starts are there.
    ///
    /// # Errors
    /// When there is no such node, or what it runs answers.
    pub fn enter<T: Send>(
        &self,
        name: &str,
        doing: impl FnOnce() -> Result<T, LabError> + Send,
    ) -> Result<T, LabError> {
        enter(&self.namespace(name)?, doing)
    }

    /// Runs `nft -f -` with rules in a node's namespace.
    ///
    /// # Errors
    /// When there is no such node, or `nft` says no.
    pub fn nft(&self, name: &str, rules: &str) -> Result<String, LabError> {
        let program = nft()?;
        self.enter(name, || run(&program, &["-f", "-"], rules))
    }

    /// Runs `ip` in a node's namespace.
    ///
    /// # Errors
    /// When there is no such node, or `ip` says no.
    pub fn ip(&self, name: &str, arguments: &[&str]) -> Result<String, LabError> {
        let program = ip()?;
        self.enter(name, || run(&program, arguments, ""))
    }

    /// The lab's id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Hosts, routers, the server and the Internet's router.
    pub fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// A directory for files of programs; it goes with the lab.
    pub fn directory(&self) -> &Path {
        &self.record.directory
    }

    fn build(&mut self, plan: Plan, interrupted: &AtomicBool) -> Result<(), LabError> {
        let fabric = format!("{}{FABRIC}", self.record.id);
        let lines = self.record.namespaces.iter().map(|name| format!("netns add {name}"));
        ip_batch(&lines.collect::<Vec<_>>())?;
        LabError::if_set(interrupted)?;
        self.plug(&plan, &fabric)?;
        for node in plan.nodes {
            LabError::if_set(interrupted)?;
            self.furnish(node)?;
        }
        LabError::if_set(interrupted)
    }

    /// Bridges, and a cable from each interface to the bridge of its segment.
    fn plug(&mut self, plan: &Plan, fabric: &str) -> Result<(), LabError> {
        let Fabric { ip: lines, cables } = plan.fabric(&self.record.id);
        let mut random = Random::from_number(plan.seed);
        for Cable { namespace, name, plug, links } in cables {
            let ends = [
                enter(&namespace, || Device::create(&name, Kind::Tap))?,
                enter(fabric, || Device::create(&plug, Kind::Tap))?,
            ];
            let wire = Wire::start(links, random.fork(), ends).map_err(LabError::system("starting a thread"))?;
            self.wires.push(wire);
        }
        enter(fabric, || {
            let _ = write_sysctl("net.ipv6.conf.all.disable_ipv6", 1);
            let _ = write_sysctl("net.ipv6.conf.default.disable_ipv6", 1);
            ip_batch(&lines)
        })
    }

    /// What a node has in its own namespace.
    fn furnish(&mut self, node: Node) -> Result<(), LabError> {
        let namespace = format!("{}-{}", self.record.id, node.name);
        let translator = node.translator.map(|translator| Arc::new(Mutex::new(translator)));
        let program = nft()?;
        let ip = ip()?;
        let (devices, tunnels, mapping) = enter(&namespace, || {
            let mut bridges = Vec::new();
            for (index, bridge) in node.bridges.iter().enumerate() {
                let end = container_end(index);
                bridges.push(format!("link add {bridge} type bridge"));
                bridges.push(format!("link set {end} master {bridge}"));
                bridges.push(format!("link set {end} up"));
            }
            ip_batch(&bridges)?;
            let devices = match translator.is_some() {
                true => Some((Device::create(INSIDE, Kind::Tun)?, Device::create(OUTSIDE, Kind::Tun)?)),
                false => None,
            };
            let tunnels =
                node.sinks.iter().enumerate().map(|(index, name)| sink(index, name)).collect::<Result<Vec<_>, _>>()?;
            usual_sysctls()?;
            for (name, value) in &node.sysctls {
                // Those of connection tracking are there once a rule needs it.
                if !name.starts_with("net.netfilter.") {
                    write_sysctl(name, *value)?;
                }
            }
            ip_batch(&node.ip)?;
            if !node.ip6.is_empty() {
                run(&ip, &["-6", "-batch", "-"], &(node.ip6.join("\n") + "\n"))?;
            }
            if !node.nft.is_empty() {
                load(&program, &node.nft)?;
            }
            for (name, value) in node.sysctls.iter().filter(|(name, _)| name.starts_with("net.netfilter.")) {
                write_sysctl(name, *value)?;
            }
            if node.conntrack_full {
                conntrack::fill()?;
            }
            let mapping = node.mapping.zip(translator.clone());
            let mapping = mapping.map(|(config, translator)| MappingServer::start(config, translator)).transpose()?;
            Ok((devices, tunnels, mapping))
        })?;
        self.sinks.extend(tunnels.into_iter().flatten());
        self.mappers.extend(mapping);
        if let (Some(translator), Some((inside, outside))) = (translator, devices) {
            let router = Router::start(translator, inside, outside).map_err(LabError::system("starting a thread"))?;
            self.routers.push(router);
        }
        Ok(())
    }
}

/// A tunnel that leads nowhere; where this user may not have a TUN device, one that only looks less like a tunnel.
fn sink(index: usize, name: &str) -> Result<Option<Device>, LabError> {
    match Device::create(name, Kind::Sink) {
        Ok(device) => Ok(Some(device)),
        Err(LabError::NotAllowed { .. }) => {
            let end = format!("+s{index}");
            // Without ARP whatever is routed there goes, as into a tunnel.
            let lines = [
                format!("link add {name} type veth peer name {end}"),
                format!("link set {name} arp off"),
                format!("link set {end} up"),
            ];
            ip_batch(&lines).map(|()| None)
        }
        Err(error) => Err(error),
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Threads first: their devices go with them.
        self.mappers.clear();
        self.routers.clear();
        self.wires.clear();
        self.sinks.clear();
        // What is left then, `state::left` tells of and `lab clean` removes later.
        let _ = (0..REMOVALS).find(|_| self.record.remove().is_ok());
    }
}

/// What every node has, whatever the machine's own settings are.
fn usual_sysctls() -> Result<(), LabError> {
    let mut interfaces = vec!["all".to_owned(), "default".to_owned()];
    for entry in fs::read_dir("/proc/sys/net/ipv4/conf").map_err(LabError::system("reading /proc/sys"))?.flatten() {
        interfaces.push(entry.file_name().to_string_lossy().into_owned());
    }
    for interface in &interfaces {
        write_file(&format!("ipv4/conf/{interface}/rp_filter"), 0)?;
        write_file(&format!("ipv4/conf/{interface}/send_redirects"), 0)?;
        for (name, value) in [("accept_dad", 0), ("accept_ra", 0), ("router_solicitations", 0)] {
            // A kernel without IPv6 has none of these.
            let _ = write_file(&format!("ipv6/conf/{interface}/{name}"), value);
        }
    }
    Ok(())
}

/// Writes a kernel parameter of the namespace that this thread is in.
fn write_sysctl(name: &str, value: i64) -> Result<(), LabError> {
    let Some(rest) = name.strip_prefix("net.") else {
        return Err(LabError::Unsupported(format!(
            "the kernel parameter {name}, which does not belong to a namespace"
        )));
    };
    let below = below_net(rest);
    if !Path::new("/proc/sys/net").join(&below).exists() {
        return Err(LabError::Unsupported(format!("the kernel parameter {name}, which this kernel does not have")));
    }
    write_file(&below, value)
}

/// The file of a parameter below /proc/sys/net, by its name without `net.`. An interface's name, between two dots, may hold
/// more of them, which stand in the name of its directory as they are.
fn below_net(name: &str) -> String {
    let of_interfaces = ["ipv4.conf.", "ipv4.neigh.", "ipv6.conf.", "ipv6.neigh."];
    let found =
        of_interfaces.into_iter().find_map(|family| Some((family, name.strip_prefix(family)?.rsplit_once('.')?)));
    match found {
        Some((family, (interface, parameter))) => format!("{}{interface}/{parameter}", family.replace('.', "/")),
        None => name.replace('.', "/"),
    }
}

fn write_file(below: &str, value: i64) -> Result<(), LabError> {
    let path = PathBuf::from("/proc/sys/net").join(below);
    fs::write(&path, value.to_string()).map_err(LabError::system(format!("writing {value} to {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_of_an_interface_is_in_its_directory_whatever_its_name() {
        for (name, path) in [
            ("ipv4.ip_forward", "ipv4/ip_forward"),
            ("ipv4.conf.all.rp_filter", "ipv4/conf/all/rp_filter"),
            ("ipv4.conf.eth0.5.rp_filter", "ipv4/conf/eth0.5/rp_filter"),
            ("ipv6.conf.br-1.0.2.accept_dad", "ipv6/conf/br-1.0.2/accept_dad"),
            ("ipv4.neigh.wan0.proxy_delay", "ipv4/neigh/wan0/proxy_delay"),
            ("netfilter.nf_conntrack_udp_timeout", "netfilter/nf_conntrack_udp_timeout"),
        ] {
            assert_eq!(below_net(name), path);
        }
    }
}
