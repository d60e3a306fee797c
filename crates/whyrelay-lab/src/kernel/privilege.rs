//! The right to make network namespaces.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, getgid, getuid};

use super::command::{ip, unreached};
use super::error::LabError;

/// What ends the programs of the labs in a /run of their own as soon as its standard input ends, which does so with the
/// process that made them, however that ends: `lab clean` cannot, as nobody else sees their names. What is stopped begins
/// no other, so each round ends what it has listed and what that began before it was stopped; it is over when three
/// rounds found nobody.
const KEEPER: &str = r#"
trap '' HUP INT TERM
cd /
read -r _
inside() { for lab in /run/netns/wrl*; do "$1" netns pids "${lab##*/}"; done; }
quiet=0 round=0
while [ $quiet -lt 3 ] && [ $round -lt 1000 ]; do
    round=$((round + 1))
    processes=$(inside "$1")
    if [ -z "$processes" ]; then
        quiet=$((quiet + 1))
        continue
    fi
    quiet=0
    kill -STOP $processes
    processes="$processes $(inside "$1")"
    kill -KILL $processes
done
"#;

/// Held open until this process ends.
static KEPT: OnceLock<ChildStdin> = OnceLock::new();

/// What this process may do, and how it came to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// It is root.
    Root,
    /// It is root in a user namespace of its own; nothing that it makes outlives it.
    UserNamespace,
}

/// Gets the right to make namespaces: root has it; anybody else gets it in a new user, network and mount namespace, where
/// the system allows.
///
/// Call it before any thread is started: the kernel gives a user namespace to single-threaded processes only.
///
/// # Errors
/// When the system does not allow it; the error says what to do.
pub fn acquire() -> Result<Privilege, LabError> {
    if Uid::effective().is_root() {
        if may_name_namespaces() && super::state::is_ours() {
            return Ok(Privilege::Root);
        }
        // Root of a user namespace (`unshare -r`), to whom /run does not belong, or who may mount nothing in it.
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(|errno| LabError::NotAllowed {
            what: format!("this user may mount nothing in /run, nor make namespaces of its own ({errno})"),
            hint: refused_because(errno),
        })?;
        own_run()?;
        return Ok(Privilege::UserNamespace);
    }
    let (uid, gid) = (getuid(), getgid());
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    unshare(flags).map_err(|errno| LabError::NotAllowed {
        what: format!("this user may not make a user namespace with networks and mounts of its own ({errno})"),
        hint: refused_because(errno),
    })?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| map_refused(file, &error))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))?;
    own_run()?;
    Ok(Privilege::UserNamespace)
}

/// Whether this process may do as `ip netns add` does, which mounts where it is and goes back to the network that it came
/// from: mounts and network may be those of another user namespace.
fn may_name_namespaces() -> bool {
    let none: Option<&str> = None;
    // Asked for nothing, the kernel says EINVAL to who may.
    let mounts = mount(none, "/", none, MsFlags::empty(), none) != Err(Errno::EPERM);
    let comes_back = || {
        let own = fs::File::open("/proc/self/ns/net")?;
        setns(own, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    };
    mounts && comes_back().is_ok()
}

/// `ip netns` keeps its names in /run, which is somebody else's; a /run of our own is gone with this process and what it
/// has started, which a keeper ends.
fn own_run() -> Result<(), LabError> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .and_then(|()| mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755")))
        .map_err(|errno| LabError::NotAllowed {
            what: format!("mounting in a user namespace: {errno}"),
            hint: refused_because(errno),
        })?;
    let mut keeper = Command::new("/bin/sh");
    keeper.args(["-c", KEEPER, "sh"]).arg(ip()?).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C is for the lab, which ends in order.
    let keeper = unreached(|| keeper.process_group(0).spawn()).map_err(LabError::system("starting /bin/sh"))?;
    if let Some(stdin) = keeper.stdin {
        // Called a second time, the first keeper does.
        let _ = KEPT.set(stdin);
    }
    Ok(())
}

/// A user namespace that may be made and not used: where AppArmor restricts them (Ubuntu since 23.10), its first write
/// is refused.
fn map_refused(file: &str, error: &io::Error) -> LabError {
    let what = format!("this user may make a user namespace, and may not use it: writing /proc/self/{file}: {error}");
    LabError::NotAllowed { what, hint: refused_because(Errno::EPERM) }
}

/// How many namespaces of each kind a user may have (namespaces(7)), and what to do where none: root needs no user
/// namespace, but others as well.
const LIMITS: [(&str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "run it with sudo, or allow it: sysctl -w user.max_user_namespaces=10000"),
    ("/proc/sys/user/max_net_namespaces", "allow it, as root: sysctl -w user.max_net_namespaces=10000"),
    ("/proc/sys/user/max_mnt_namespaces", "allow it, as root: sysctl -w user.max_mnt_namespaces=10000"),
];

/// What stands in the way, as far as the system tells.
fn refused_because(errno: Errno) -> &'static str {
    let says = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let limit = || LIMITS.iter().find(|(path, _)| says(path, "0"));
    if let (Errno::ENOSPC, Some((_, hint))) = (errno, limit()) {
        hint
    } else if errno == Errno::ENOSPC {
        "this user has as many namespaces as it may, or they are too deep in each other: sysctl user"
    } else if says("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "run it with sudo, or allow it: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    } else if says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "run it with sudo, or allow it: sysctl -w kernel.unprivileged_userns_clone=1"
    } else {
        "run it with sudo; in a container, give it CAP_SYS_ADMIN and CAP_NET_ADMIN"
    }
}

/// What to say about /dev/net/tun.
pub(crate) fn tun_refused(error: io::Error) -> LabError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "load the module: modprobe tun; in a container, pass it in: --device /dev/net/tun",
        io::ErrorKind::PermissionDenied => {
            "run it with sudo, or let everybody use it, as most systems do: chmod 666 /dev/net/tun"
        }
        _ => "run it with sudo",
    };
    LabError::NotAllowed {
        what: format!("opening /dev/net/tun, which user-space routers and cables need: {error}"),
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_that_may_be_made_and_not_used_is_told_with_the_way_out() {
        let said = map_refused("uid_map", &io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(
            said.contains("/proc/self/uid_map: permission denied") && said.contains("\nhint: run it with sudo"),
            "{said}"
        );
    }
}
