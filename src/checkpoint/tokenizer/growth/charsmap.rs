//! SentencePiece's table of characters, as far as it lengthens a text.

/// The largest ratio of a replacement to the bytes that it replaces, in a table of sentencepiece: the length of a
/// double-array trie, the trie, and the replacements, each with a zero byte behind it.
pub fn factor(charsmap: &str) -> f64 {
    let Some(table) = base64(charsmap) else {
        return f64::INFINITY;
    };
    let Some((length, rest)) = table.split_first_chunk::<4>() else {
        return 1.0;
    };
    let Some((trie, replacements)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
        return f64::INFINITY;
    };
    let (units, _) = trie.as_chunks::<4>();
    let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let mut largest = 1.0_f64;
    let Some(&root) = units.first() else {
        return largest;
    };
    let mut visited = vec![false; units.len()];
    let mut nodes = vec![(offset(root), 0_usize)];
    while let Some((position, depth)) = nodes.pop() {
        for byte in 1..=u8::MAX {
            let child = position ^ usize::from(byte);
            let Some(&unit) = units.get(child) else {
                continue;
            };
            let label = unit & (1 << 31 | 0xff);
            if label != u32::from(byte) || std::mem::replace(&mut visited[child], true) {
                continue;
            }
            let position = child ^ offset(unit);
            if (unit >> 8) & 1 == 1
                && let Some(leaf) = units.get(position)
            {
                let value = (leaf & !(1 << 31)) as usize;
                let replacement = replacements.get(value..).unwrap_or_default();
                let bytes = replacement
                    .iter()
                    .position(|&byte| byte == 0)
                    .unwrap_or(replacement.len());
                largest = largest.max(bytes as f64 / (depth + 1) as f64);
            }
            nodes.push((position, depth + 1));
        }
    }
    largest
}

/// Decodes base64; `None` if it is not valid.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}
