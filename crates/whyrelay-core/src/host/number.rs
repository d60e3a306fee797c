//! Marks, users and tables as people and tools write them.

/// A number in decimal, or in hexadecimal behind `0x`.
pub fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // `from_str_radix` takes a sign.
        Some(digits) if digits.starts_with(['+', '-']) => None,
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_number;

    #[test]
    fn numbers_are_read_with_and_without_a_prefix() {
        for (text, number) in [
            ("0", Some(0)),
            ("114944", Some(114_944)),
            ("0x1bd00", Some(0x1_BD00)),
            ("0XFF", Some(255)),
            ("0xffffffff", Some(u32::MAX)),
            ("4294967296", None),
            ("0x", None),
            ("0x+1", None),
            ("1bd00", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(parse_number(text), number, "{text}");
        }
    }
}
