//! Port and mark of a kernel WireGuard interface, by generic netlink (linux/wireguard.h). Its keys come in the same
//! answer and are never looked at.

use std::io;
use std::ops::ControlFlow;

use crate::host::netlink::{Netlink, attributes, push_attribute};

const NETLINK_GENERIC: isize = 16;

// linux/genetlink.h: the family of families.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// linux/wireguard.h.
const WG_CMD_GET_DEVICE: u8 = 0;
const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_FWMARK: u16 = 7;

/// Length of a generic netlink header.
const HEADER: usize = 4;

/// What a WireGuard interface sends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) port: Option<u16>,
    /// `None`: none.
    pub(super) mark: Option<u32>,
}

/// Reads an interface.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN; ENOENT where the kernel has no WireGuard.
pub(super) fn read(device: &str) -> io::Result<Device> {
    let mut netlink = Netlink::open(NETLINK_GENERIC)?;
    let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    push_attribute(&mut payload, CTRL_ATTR_FAMILY_NAME, b"wireguard\0");
    let answer = netlink.ask(GENL_ID_CTRL, &payload)?;
    let body = answer.get(HEADER..).ok_or(io::ErrorKind::InvalidData)?;
    let id = attributes(body).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
    let id = id.and_then(|(_, value)| Some(u16::from_ne_bytes(*value.first_chunk()?)));
    let id = id.ok_or(io::ErrorKind::InvalidData)?;

    let mut payload = vec![WG_CMD_GET_DEVICE, 1, 0, 0];
    push_attribute(&mut payload, WGDEVICE_A_IFNAME, &[device.as_bytes(), &[0]].concat());
    let mut found = Device::default();
    netlink.dump(id, &payload, |_, body| {
        take(&mut found, body.get(HEADER..).unwrap_or_default());
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn take(found: &mut Device, body: &[u8]) {
    for (kind, value) in attributes(body) {
        match kind {
            WGDEVICE_A_LISTEN_PORT => {
                let port = value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
                found.port = port.filter(|port| *port != 0).or(found.port);
            }
            WGDEVICE_A_FWMARK => {
                let mark = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
                found.mark = mark.filter(|mark| *mark != 0).or(found.mark);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_and_mark_are_read_and_keys_are_not() {
        let mut body = Vec::new();
        push_attribute(&mut body, 3, &[7; 32]);
        push_attribute(&mut body, WGDEVICE_A_LISTEN_PORT, &51_820_u16.to_ne_bytes());
        push_attribute(&mut body, WGDEVICE_A_FWMARK, &0xca6c_u32.to_ne_bytes());
        let mut found = Device::default();
        take(&mut found, &body);
        assert_eq!(found, Device { port: Some(51_820), mark: Some(0xca6c) });
        for length in 0..body.len() {
            take(&mut Device::default(), &body[..length]);
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(read("no-such-wg").is_err());
    }
}
