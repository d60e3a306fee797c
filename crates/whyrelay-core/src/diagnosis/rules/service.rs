//! How a service's environment is changed, by what starts the host's services.

use super::lasting::init;
use crate::diagnosis::evidence::HostEvidence;
use crate::diagnosis::finding::Remedy;
use crate::host::Init;

/// A variable that a service's environment is to have, or no longer to have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variable<'a> {
    /// `NAME=value`.
    Set(&'a str),
    /// `NAME`.
    Unset(&'a str),
}

/// `what` for a service, and its restart. `drop_in`: the name of systemd's file for it. systemd where it is not known.
pub(super) fn with_variable(
    what: &str,
    host: &HostEvidence,
    service: &str,
    drop_in: &str,
    variable: Variable<'_>,
) -> Remedy {
    let init = init(host).unwrap_or(Init::Systemd);
    let remedy = match (init, variable) {
        (Init::Systemd, variable) => {
            let directory = format!("/etc/systemd/system/{service}.service.d");
            let line = match variable {
                Variable::Set(setting) => format!("Environment={setting}"),
                Variable::Unset(name) => format!("UnsetEnvironment={name}"),
            };
            Remedy::cuts(what)
                .run(format!("mkdir -p {directory}"))
                .run(format!("printf '[Service]\\n{line}\\n' > {directory}/{drop_in}.conf"))
                .run("systemctl daemon-reload")
        }
        (Init::Openrc, Variable::Set(setting)) => {
            Remedy::cuts(what).run(format!("echo 'export {setting}' >> /etc/conf.d/{service}"))
        }
        (Init::Openrc, Variable::Unset(name)) => {
            Remedy::cuts(what).run(format!("sed -i '/{name}=/d' /etc/conf.d/{service}"))
        }
        (_, Variable::Set(setting)) => {
            Remedy::cuts(format!("{what}: {setting} into what starts {service}, and a restart of it"))
        }
        (_, Variable::Unset(name)) => {
            Remedy::cuts(format!("{what}: {name} out of what starts {service}, and a restart of it"))
        }
    };
    remedy.run(init.restart(service))
}
