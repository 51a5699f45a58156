//! One member out of a ZIP archive, as wheels are: stored or deflated, below 4 GiB.
//!
//! This little is all that is needed of the format (PKWARE's APPNOTE, 4.3), for a file whose SHA-256 is known.
//! Archives end with an index; each row of it leads to a local header, which the bytes of the member follow.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

/// `PK\5\6`, the end of the index; its fixed part has 22 bytes, a comment of up to 65,535 follows.
const END: (&[u8], usize) = (b"PK\x05\x06", 22);
/// `PK\1\2`, a row of the index.
const ROW: (&[u8], usize) = (b"PK\x01\x02", 46);
/// `PK\3\4`, the header in front of a member.
const LOCAL: (&[u8], usize) = (b"PK\x03\x04", 30);

/// The content of the member `name`.
///
/// # Errors
/// If the file cannot be read, is no such archive or has no such member.
pub(super) fn member(mut file: File, name: &str) -> Result<Box<dyn Read>> {
    let index = read_index(&mut file)?;
    let row = find_row(&index, name).ok_or_else(|| invalid(format!("the archive has no {name}")))?;
    let (method, packed_bytes, offset) = (u16_at(row, 10), u32_at(row, 20), u32_at(row, 42));
    let mut local = [0; LOCAL.1];
    file.seek(SeekFrom::Start(offset.into()))?;
    file.read_exact(&mut local)?;
    if !local.starts_with(LOCAL.0) {
        return Err(invalid(format!("the archive has no member at {offset}")));
    }
    file.seek_relative(i64::from(u16_at(&local, 26)) + i64::from(u16_at(&local, 28)))?;
    let packed = file.take(packed_bytes.into());
    match method {
        0 => Ok(Box::new(packed)),
        8 => Ok(Box::new(DeflateDecoder::new(packed))),
        _ => Err(invalid(format!("{name} is packed with method {method}"))),
    }
}

/// All rows of the index.
fn read_index(file: &mut File) -> Result<Vec<u8>> {
    let len = file.seek(SeekFrom::End(0))?;
    let tail_len = len.min(END.1 as u64 + 65_535);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(len - tail_len))?;
    file.take(tail_len).read_to_end(&mut tail)?;
    let end = tail.windows(END.1).rev().find(|w| w.starts_with(END.0));
    let end = end.ok_or_else(|| invalid("not a ZIP archive".into()))?;
    let (index_len, start) = (u32_at(end, 12), u32_at(end, 16));
    let mut index = Vec::new();
    file.seek(SeekFrom::Start(start.into()))?;
    file.take(index_len.into()).read_to_end(&mut index)?;
    Ok(index)
}

/// The fixed part of the row of `name`.
fn find_row<'a>(index: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = index;
    while rest.starts_with(ROW.0) {
        let (row, variable) = rest.split_at_checked(ROW.1)?;
        let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| usize::from(u16_at(row, at)));
        if variable.get(..name_len)? == name.as_bytes() {
            return Some(row);
        }
        rest = variable.get(name_len + extra_len + comment_len..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
