//! Header blocks (HPACK, RFC 7541): enough to find the value of one field and to change characters in it without
//! changing a length.

/// The index of `:authority` in the static table.
pub(crate) const AUTHORITY: usize = 1;

/// The value of a literal field, as it is on the wire.
#[derive(Debug)]
pub(crate) struct Value<'a> {
    pub(crate) bytes: &'a mut [u8],
    /// Whether the bytes are Huffman coded.
    pub(crate) huffman: bool,
}

/// Calls `visit` with each literal field of the block: the table index of its name (0 if the name is a literal
/// too) and its value. `None` when the block cannot be followed; what came before was visited.
pub(crate) fn literals(block: &mut [u8], mut visit: impl FnMut(usize, Value<'_>)) -> Option<()> {
    let mut at = 0;
    while let Some(first) = block.get(at) {
        let (prefix, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let name = integer(block, &mut at, prefix)?;
        if !has_value {
            continue;
        }
        if name == 0 {
            string(block, &mut at)?;
        }
        visit(name, string(block, &mut at)?);
    }
    Some(())
}

fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    // Three bytes count further than any frame is long.
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn string<'a>(block: &'a mut [u8], at: &mut usize) -> Option<Value<'a>> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let from = *at;
    *at = from.checked_add(length)?;
    Some(Value { bytes: block.get_mut(from..*at)?, huffman })
}

/// The lengths of HPACK's Huffman codes, in bits, and how many codes have each. The code is canonical, so this is
/// enough to find where a code ends.
const CODES: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

/// Returns the Huffman code that begins at this bit: its length and its bits. `None` at the end, in the padding.
pub(crate) fn huffman_code(bytes: &[u8], at: usize) -> Option<(usize, u32)> {
    // In a canonical code the first code of each length follows from the codes before it.
    let (mut length, mut first, mut bits) = (0, 0_u32, 0_u32);
    for (longer, count) in CODES {
        first <<= longer - length;
        while length < longer {
            bits = bits << 1 | u32::from(bit(bytes, at + usize::try_from(length).ok()?)?);
            length += 1;
        }
        if bits < first + count {
            return Some((usize::try_from(length).ok()?, bits));
        }
        first += count;
    }
    None
}

fn bit(bytes: &[u8], at: usize) -> Option<bool> {
    bytes.get(at / 8).map(|byte| byte >> (7 - at % 8) & 1 == 1)
}

/// Sets one bit; nothing beyond the end.
pub(crate) fn set_bit(bytes: &mut [u8], at: usize, to: bool) {
    if let Some(byte) = bytes.get_mut(at / 8) {
        let mask = 1 << (7 - at % 8);
        if to { *byte |= mask } else { *byte &= !mask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_huffman_code_is_complete() {
        let sum: u64 = CODES.iter().map(|(length, count)| u64::from(*count) << (30 - length)).sum();
        assert_eq!((sum, CODES.iter().map(|(_, count)| count).sum::<u32>()), (1 << 30, 257));
    }
}
