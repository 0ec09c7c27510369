//! Bytes as a table or a segment's footer: directory, columns, rows.

use bodley_engine::vault::rows::Rows;
use bodley_engine::vault::segment::footer_len;
use bodley_engine::vault::table::Table;
use bodley_protocol::checksum::crc64;

/// One input.
pub fn run(data: &[u8]) {
    let _ = footer_len(data);
    // The checksum would keep the fuzzer out: set it right.
    let mut bytes = data.to_vec();
    if bytes.len() >= 24 {
        bytes[..10].copy_from_slice(b"BDLYTBL1\x01\x00");
        let crc = crc64(&bytes[24..]);
        bytes[16..24].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok(table) = Table::open("fuzz", &bytes)
        && table.rows() < 1 << 16
    {
        let _ = Rows::decode(&table);
    }
}
