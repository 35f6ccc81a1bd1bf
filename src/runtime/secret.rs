//! Secrets of 32 bytes, as people keep them: 64 hexadecimal characters.

use zeroize::Zeroizing;

/// Reads one, white space around it ignored. What is returned is wiped from memory on drop.
///
/// # Errors
/// If it is anything else; the text never holds a part of it.
pub fn from_hex(text: &str) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    let text = text.trim().as_bytes();
    if text.len() != 64 || !text.iter().all(u8::is_ascii_hexdigit) {
        return Err("a key is 64 hexadecimal characters");
    }
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        let nibble = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
        *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    Ok(key)
}
