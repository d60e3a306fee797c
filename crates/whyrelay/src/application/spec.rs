//! A program described by hand: `mark=0x1bd00,port=51820,interface=eth0,uid=1000,raw`.

use whyrelay_core::host::parse_number;

use super::{Origin, Suspect};
use crate::io::disguise::DeviceName;

/// What can stand behind `--as`.
const FORMS: &str =
    "netbird, tailscale, wireguard, a process id, or a list like mark=0x1bd00,port=51820,interface=eth0,uid=1000,raw";

pub(super) fn parse(text: &str) -> anyhow::Result<Suspect> {
    let wrong = |what: &str| anyhow::anyhow!("--as {text}: {what}\nhint: give {FORMS}");
    let mut suspect = Suspect::new(text, Origin::Given);
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let number = |least: u32, most: u32| {
            let fits = parse_number(value).filter(|number| (least..=most).contains(number));
            fits.ok_or_else(|| wrong(&format!("{value:?} is no {name}")))
        };
        match name.trim() {
            "mark" => suspect.mark = Some(number(0, u32::MAX)?),
            "port" => suspect.port = u16::try_from(number(1, 65_535)?).ok(),
            // The greatest means "no user" to the system.
            "uid" => suspect.user = Some(number(0, u32::MAX - 1)?),
            "interface" if DeviceName::new(value).is_some() => suspect.device = Some(value.to_owned()),
            "interface" => return Err(wrong(&format!("{value:?} is no interface"))),
            "raw" if value.is_empty() => suspect.raw = true,
            "udp" if value.is_empty() => suspect.raw = false,
            other => return Err(wrong(&format!("{other:?} is not known"))),
        }
    }
    Ok(suspect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_understood() {
        let suspect = parse("mark=0x1bd00,port=51820,interface=eth0,uid=1000,raw").unwrap();
        assert_eq!((suspect.mark, suspect.port, suspect.user), (Some(0x1BD00), Some(51_820), Some(1000)));
        assert_eq!((suspect.device.as_deref(), suspect.raw), (Some("eth0"), true));
        assert_eq!(suspect.describe(), "mark 0x1bd00, port 51820, interface eth0, user 1000, raw socket (as given)");
        assert_eq!(parse("mark=114944").unwrap().mark, Some(114_944));
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (text, words) in [
            ("nonsense", "\"nonsense\" is not known"),
            ("mark=red", "\"red\" is no mark"),
            ("port=0", "\"0\" is no port"),
            ("port=70000", "\"70000\" is no port"),
            ("interface=", "\"\" is no interface"),
            ("raw=1", "\"raw\" is not known"),
            ("", "\"\" is not known"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("hint: give netbird, tailscale"), "{text}: {error}");
        }
    }
}
