//! Files that are written in large pieces.
//!
//! Linux keeps a file in memory in pieces as large as those in which it was written, and maps them as such. A model is often run
//! right after it was made or fetched; written by a few kilobytes, its weights are read more slowly until the file has been
//! dropped from memory and read again.

use std::fs::File;
use std::io::{self, Write};

/// Bytes of a piece, which begins at a multiple of as many: what one entry of a page table maps.
const PIECE: usize = 1 << 21;

/// Passes on what is written to it in whole pieces, but for the first and the last.
#[derive(Debug)]
pub(crate) struct InPieces<W: Write = File> {
    out: W,
    /// How far the next byte for `out` is from the beginning of a piece.
    at: usize,
    /// What is to come first; it does not reach the end of the piece.
    waiting: Vec<u8>,
}

impl<W: Write> InPieces<W> {
    /// Writes to `out`, whose next byte is number `pos` of the file.
    pub(crate) fn new(out: W, pos: u64) -> Self {
        Self { out, at: (pos % PIECE as u64) as usize, waiting: Vec::new() }
    }

    /// What is written to; some bytes are not there yet before a `flush`.
    #[cfg(feature = "hub")]
    pub(crate) fn get_ref(&self) -> &W {
        &self.out
    }

    /// Bytes up to the end of the piece.
    fn room(&self) -> usize {
        PIECE - self.at - self.waiting.len()
    }

    /// Passes on what waits.
    fn pass_on(&mut self) -> io::Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let result = self.put(&waiting);
        // After an error as well: a part of it may have been written.
        waiting.clear();
        self.waiting = waiting;
        result
    }

    /// Passes on bytes.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at = (self.at + bytes.len()) % PIECE;
        Ok(())
    }
}

impl<W: Write> Write for InPieces<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some((end, rest)) = bytes.split_at_checked(self.room()) {
            bytes = rest;
            if self.waiting.is_empty() {
                self.put(end)?;
            } else {
                self.waiting.extend_from_slice(end);
                self.pass_on()?;
            }
            let (pieces, rest) = bytes.split_at(bytes.len() / PIECE * PIECE);
            self.put(pieces)?;
            bytes = rest;
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.out.flush()
    }
}

#[cfg(feature = "hub")]
impl InPieces {
    /// An empty file again.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.waiting.clear();
        self.at = 0;
        self.out.set_len(0)?;
        io::Seek::rewind(&mut self.out)
    }
}

impl<W: Write> Drop for InPieces<W> {
    /// What comes after an error elsewhere: who goes on later finds as much as there was.
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use crate::file::{InPieces, PIECE};

    /// Keeps what it gets, and in what pieces.
    #[derive(Default)]
    struct Log {
        bytes: Vec<u8>,
        pieces: Vec<usize>,
    }

    impl Write for &mut Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.bytes.extend_from_slice(bytes);
            self.pieces.extend((!bytes.is_empty()).then_some(bytes.len()));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_end_at_multiples_of_their_size() {
        let bytes: Vec<u8> = (0..5 * PIECE + 17).map(|i| (i % 251) as u8).collect();
        for pos in [0, 1, PIECE - 1, 3 * PIECE + 40] {
            for len in [1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5, bytes.len()] {
                let mut log = Log::default();
                let mut writer = InPieces::new(&mut log, pos as u64);
                bytes.chunks(len).for_each(|chunk| writer.write_all(chunk).expect("a log takes all"));
                drop(writer);
                assert!(log.bytes == bytes, "from {pos}, by {len}");
                let ends = log.pieces.iter().scan(pos, |at, len| {
                    *at += len;
                    Some(*at)
                });
                let n = log.pieces.len();
                assert!(ends.take(n - 1).all(|end| end % PIECE == 0), "from {pos}, by {len}: {:?}", log.pieces);
            }
        }
    }

    #[test]
    fn what_failed_is_not_written_again() {
        /// Takes three bytes and no more.
        struct Full(Vec<u8>);
        impl Write for &mut Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let n = bytes.len().min(3 - self.0.len());
                self.0.extend_from_slice(&bytes[..n]);
                if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut full = Full(Vec::new());
        let mut writer = InPieces::new(&mut full, 0);
        writer.write_all(b"12345").expect("that is kept");
        assert!(writer.flush().is_err());
        drop(writer);
        assert_eq!(full.0, b"123");
    }
}
