//! The programs that the interop tests need: found, installed or built, and told to
//! the tests through environment variables.
//!
//! A tool that is there is announced as `WHYRELAY_INTEROP_X=<path>`; one that is not as
//! `WHYRELAY_INTEROP_X_MISSING=<why, and what to install>`. Tests that need it are then
//! reported as skipped with that reason, or fail when `CI` is set.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::step;

/// Everything that is installed or built for the tests lives here.
const DIRECTORY: &str = "target/interop";
/// Downloads and installations; a registry that does not answer must not stop the run for good.
const INSTALL_LIMIT: Duration = Duration::from_secs(10 * 60);
/// The Go library of the Pion peer, as Debian installs it.
const PION_LIBRARY: &str = "/usr/share/gocode/src/github.com/pion/webrtc";

/// What is asked of the system's package manager: how it is recognized, and its Debian package.
const PACKAGES: &[(Probe, &str)] = &[
    (Probe::Program("turnserver"), "coturn"),
    (Probe::Program("chromium"), "chromium"),
    (Probe::Program("firefox-esr"), "firefox-esr"),
    (Probe::Program("python3"), "python3"),
    (Probe::PythonVenv, "python3-venv"),
    (Probe::Program("node"), "nodejs"),
    (Probe::Program("npm"), "npm"),
    (Probe::File(PION_LIBRARY), "golang-github-pion-webrtc.v3-dev"),
    (Probe::Program("ip"), "iproute2"),
    (Probe::Program("nft"), "nftables"),
    (Probe::Program("iptables-legacy"), "iptables"),
    (Probe::Program("tshark"), "tshark"),
    (Probe::Program("miniupnpd"), "miniupnpd-nftables"),
    (Probe::Program("wireguard-go"), "wireguard-go"),
    (Probe::Program("wg"), "wireguard-tools"),
    (Probe::Program("openvpn"), "openvpn"),
];

enum Probe {
    Program(&'static str),
    PythonVenv,
    File(&'static str),
}

impl Probe {
    fn present(&self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::PythonVenv => {
                let mut python = Command::new("python3");
                step::output(python.args(["-c", "import ensurepip, venv"])).is_ok()
            }
        }
    }
}

/// One tool as the tests learn of it.
struct Tool {
    /// The name of the variable, without its prefix.
    name: &'static str,
    /// The path, or why there is none.
    found: std::result::Result<PathBuf, String>,
}

/// All tools of the interop tests.
pub(crate) struct Tools(Vec<Tool>);

impl Tools {
    /// The environment that tells the tests.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|tool| match &tool.found {
            Ok(path) => (format!("WHYRELAY_INTEROP_{}", tool.name), path.display().to_string()),
            Err(reason) => (format!("WHYRELAY_INTEROP_{}_MISSING", tool.name), reason.clone()),
        })
    }

    /// A line for each tool that is missing.
    pub(crate) fn print_missing(&self) {
        for tool in &self.0 {
            if let Err(reason) = &tool.found {
                step::skip(&format!("interop tests with {}", tool.name), reason);
            }
        }
    }

    fn path(&self, name: &str) -> std::result::Result<&Path, String> {
        match self.0.iter().find(|tool| tool.name == name) {
            Some(Tool { found: Ok(path), .. }) => Ok(path),
            Some(Tool { found: Err(reason), .. }) => Err(reason.clone()),
            None => Err(format!("{name} was not looked for")),
        }
    }

    fn add(&mut self, name: &'static str, found: Result<PathBuf>) {
        let found = found.map_err(|error| format!("{error:#}"));
        self.0.push(Tool { name, found });
    }
}

/// Installs, builds and finds everything; what cannot be had is noted, not an error.
pub(crate) fn prepare() -> Result<Tools> {
    let directory = std::env::current_dir()?.join(DIRECTORY);
    std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    step::timed("interop tools", || {
        install_packages();
        let mut tools = Tools(Vec::new());
        for (name, program) in [
            ("TURNSERVER", "turnserver"),
            ("CHROMIUM", "chromium"),
            ("FIREFOX", "firefox-esr"),
            ("NODE", "node"),
            ("TSHARK", "tshark"),
            ("NFT", "nft"),
            ("IPTABLES_LEGACY", "iptables-legacy"),
            ("NATDISCOVERY", "turnutils_natdiscovery"),
            ("MINIUPNPD", "miniupnpd"),
            ("WIREGUARD_GO", "wireguard-go"),
            ("WG", "wg"),
            ("OPENVPN", "openvpn"),
        ] {
            tools.add(name, program_or_package(program));
        }
        tools.add("NETNS", network_namespaces());
        tools.add("PYTHON", python(&directory.join("venv")));
        tools.add("NODE_DIR", node_modules(&directory.join("node")));
        let go = tools.path("PYTHON").map(|python| python.with_file_name("go"));
        for (name, source) in [("PION", "pion"), ("GOLAB_SERVER", "golab-server")] {
            tools.add(name, go_program(go.clone(), source, &directory));
        }
        Ok(tools)
    })
}

/// The path of `program` in `PATH`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        // Not always in a user's PATH.
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Installs what is missing with apt-get, as root; else says what to install.
fn install_packages() {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(probe, _)| !probe.present()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return;
    }
    let install = format!("apt-get install {}", missing.join(" "));
    if !is_root() || find_program("apt-get").is_none() {
        step::skip("packages", &format!("not root; install with: {install}"));
        return;
    }
    let mut update = Command::new("apt-get");
    update.args(["update", "-qq"]);
    // The lists that are there may do.
    let _ = step::run("apt-get update", update, INSTALL_LIMIT);
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    // What did not get installed is missed below, with its own reason.
    let _ = step::run(&install, command, INSTALL_LIMIT);
}

/// The path of `program`, or which package has it.
fn program_or_package(program: &str) -> Result<PathBuf> {
    find_program(program).with_context(|| {
        let package = PACKAGES.iter().find_map(|(probe, package)| match probe {
            Probe::Program(name) if *name == program => Some(*package),
            _ => None,
        });
        let package = package.unwrap_or(program);
        format!("{program} is not installed: apt-get install {package}")
    })
}

/// `ip`, when it may make network namespaces.
fn network_namespaces() -> Result<PathBuf> {
    let ip = program_or_package("ip")?;
    if !is_root() {
        bail!("network namespaces need root");
    }
    let name = format!("whyrelay-probe-{}", std::process::id());
    step::output(Command::new(&ip).args(["netns", "add", &name])).context("making a network namespace")?;
    step::output(Command::new(&ip).args(["netns", "delete", &name]))?;
    Ok(ip)
}

/// The Python of a virtual environment with `interop/requirements.txt` installed.
fn python(venv: &Path) -> Result<PathBuf> {
    let python = venv.join("bin/python");
    let wanted = std::fs::read_to_string("interop/requirements.txt")?;
    let stamp = venv.join("installed.txt");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    program_or_package("python3")?;
    if !Probe::PythonVenv.present() {
        bail!("Python cannot make virtual environments: apt-get install python3-venv");
    }
    let mut create = Command::new("python3");
    create.args(["-m", "venv", "--clear"]).arg(venv);
    step::run("python -m venv", create, INSTALL_LIMIT)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "-r", "interop/requirements.txt"]);
    install.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    step::run("pip install", install, INSTALL_LIMIT)?;
    std::fs::write(&stamp, wanted)?;
    Ok(python)
}

/// A directory whose `node_modules` is what `interop/package-lock.json` says.
fn node_modules(directory: &Path) -> Result<PathBuf> {
    installed_from(Path::new("interop"), directory)
}

/// A script beside the `node_modules` that the package-lock.json of `source` asks for.
pub(crate) fn npm_program(source: &str, directory: &Path, script: &str) -> Result<PathBuf> {
    let program = installed_from(Path::new(source), directory)?.join("start");
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(program)
}

fn installed_from(source: &Path, directory: &Path) -> Result<PathBuf> {
    let wanted = std::fs::read_to_string(source.join("package-lock.json"))?;
    let stamp = directory.join("installed.json");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(directory.to_owned());
    }
    let npm = program_or_package("npm")?;
    std::fs::create_dir_all(directory)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(source.join(file), directory.join(file))?;
    }
    let mut install = Command::new(npm);
    install.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(directory);
    step::run("npm ci", install, INSTALL_LIMIT)?;
    std::fs::write(&stamp, wanted)?;
    Ok(directory.to_owned())
}

/// Builds `interop/<source>` and answers the program.
///
/// Debian's Go libraries want GOPATH mode. There, a path with a major version (`webrtc/v3`)
/// is understood only from a source that has a go.mod above it and lies in GOPATH itself.
fn go_program(go: std::result::Result<PathBuf, String>, source: &str, directory: &Path) -> Result<PathBuf> {
    let go = go.map_err(anyhow::Error::msg)?;
    if !Path::new(PION_LIBRARY).exists() {
        bail!("Pion is not installed: apt-get install golang-github-pion-webrtc.v3-dev");
    }
    let gopath = directory.join("gopath");
    let module = gopath.join("src/whyrelay-interop");
    std::fs::create_dir_all(module.join(source))?;
    let main = Path::new(source).join("main.go");
    for file in [Path::new("go.mod"), &main] {
        std::fs::copy(Path::new("interop").join(file), module.join(file))?;
    }
    let program = directory.join(source);
    let mut build = Command::new(go);
    build
        .args(["build", "-o"])
        .arg(&program)
        .arg(format!("./{source}"))
        .current_dir(&module)
        .env("GO111MODULE", "off")
        .env("GOPATH", format!("{}:/usr/share/gocode", gopath.display()))
        .env("GOCACHE", directory.join("gocache"))
        .env("GOTOOLCHAIN", "local")
        .env("GOTELEMETRY", "off")
        .env("CGO_ENABLED", "0");
    step::run(&format!("go build {source}"), build, INSTALL_LIMIT)?;
    Ok(program)
}

/// Builds a Go program of one file that uses Go's own library only.
pub(crate) fn bench_go_program(source: &str, program: &Path) -> Result<PathBuf> {
    let directory = std::env::current_dir()?.join(DIRECTORY);
    let mut build = Command::new(directory.join("venv/bin/go"));
    build.args(["build", "-o"]).arg(program).arg(source);
    build.env("GO111MODULE", "off").env("GOPATH", directory.join("gopath")).env("GOCACHE", directory.join("gocache"));
    build.env("GOTOOLCHAIN", "local").env("GOTELEMETRY", "off").env("CGO_ENABLED", "0");
    step::run(&format!("go build {source}"), build, INSTALL_LIMIT)?;
    Ok(program.to_owned())
}

/// Whether this process may install packages and make namespaces.
fn is_root() -> bool {
    step::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
