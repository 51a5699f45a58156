//! Files that lie: each is refused with a clear error, or opened so that everything in it can be used safely.

use halfbyte::Error;
use halfbyte::gguf::{Gguf, Value};

use super::{F32, Q4_0, parse, small_file};

/// GGUF's numbers of some value types.
const U8: u32 = 0;
const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a header, put together without the checks that the writer makes.
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, n_tensors: u64, n_entries: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_entries)
    }

    fn u32(self, v: u32) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    fn u64(self, v: u64) -> Self {
        self.bytes(&v.to_le_bytes())
    }

    fn bytes(mut self, v: &[u8]) -> Self {
        self.0.extend_from_slice(v);
        self
    }

    fn str(self, v: &[u8]) -> Self {
        self.u64(v.len() as u64).bytes(v)
    }

    fn tensor(self, name: &str, dims: &[u64], format: u32, offset: u64) -> Self {
        let head = self.str(name.as_bytes()).u32(dims.len() as u32);
        dims.iter().fold(head, |raw, &dim| raw.u64(dim)).u32(format).u64(offset)
    }

    /// Space enough for small tensors, and for counts that are believed for lack of a reason not to.
    fn room(self) -> Self {
        self.bytes(&[0; 4096])
    }
}

/// A file with one tensor.
fn one_tensor(dims: &[u64], format: u32, offset: u64) -> Raw {
    Raw::new(3, 1, 0).tensor("t", dims, format, offset)
}

/// A file with one key, whose value is still to come.
fn one_key(key: &str, value_type: u32) -> Raw {
    Raw::new(3, 0, 1).str(key.as_bytes()).u32(value_type)
}

fn refused(raw: Raw, what: &str) {
    match parse(&raw.0) {
        Err(Error::Gguf { what: found, .. }) => assert!(found.contains(what), "{found:?} does not say {what:?}"),
        Err(other) => panic!("{other} is another kind of error"),
        Ok(_) => panic!("a file was opened that should be refused: {what}"),
    }
}

#[test]
fn what_is_no_gguf_says_what_it_is() {
    refused(Raw(vec![]), "the file is empty");
    refused(Raw(b"hello".to_vec()), "starts with \"hell\" instead of \"GGUF\"");
    refused(Raw(vec![0xff, 0]), "starts with \"\\xff\\x00\"");
    refused(Raw(b"tjgg\x01\0\0\0".to_vec()), "older than GGUF");
    refused(Raw(b"PK\x03\x04....".to_vec()), "zip archive");
    refused(Raw(b"<!DOCTYPE html>".to_vec()), "web page");
    refused(Raw(b"version https://git-lfs.github.com/spec/v1".to_vec()), "Git LFS pointer");
    refused(Raw(b"FUGG\0\0\0\x03".to_vec()), "big-endian");
    refused(Raw::new(3u32.swap_bytes(), 0, 0), "big-endian");
    refused(Raw::new(1, 0, 0), "version 1 of the format");
    refused(Raw::new(4, 0, 0), "version 4 of the format");
    refused(Raw::new(0, 0, 0), "version 0 of the format");
}

#[test]
fn version_2_opens_and_so_does_an_empty_file_of_version_3() {
    for version in [2, 3] {
        let file = parse(&Raw::new(version, 0, 0).0).expect("nothing is wrong with it");
        assert_eq!((file.version(), file.metadata().len(), file.tensors().len()), (version, 0, 0));
    }
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
    for n in [6, u64::from(u32::MAX), 1 << 62, u64::MAX] {
        refused(Raw::new(3, n, 0).bytes(&[0; 100]), "tensors are promised");
        refused(Raw::new(3, 0, n.max(9)).bytes(&[0; 100]), "metadata keys are promised");
    }
    for n in [5000, u64::MAX / 2, u64::MAX] {
        refused(Raw::new(3, 0, 1).u64(n).room(), "bytes of text are promised");
        refused(one_key("k", STRING).u64(n).room(), "bytes of text are promised");
        refused(one_key("k", ARRAY).u32(U32).u64(n).room(), "array items are promised");
        refused(one_key("k", ARRAY).u32(STRING).u64(n).room(), "array items are promised");
        refused(one_key("k", ARRAY).u32(ARRAY).u64(n).room(), "array items are promised");
    }
}

#[test]
fn metadata_that_make_no_sense_are_refused() {
    refused(one_key("", U8).room(), "metadata key at byte 24 is empty");
    refused(Raw::new(3, 0, 1).str(&[0xff]).u32(U8).room(), "is not UTF-8");
    refused(one_key("k\x1b[2J", U8).room(), "has control characters");
    refused(one_key("k", 13).room(), "metadata key `k`: unknown type 13");
    refused(one_key("k", ARRAY).u32(u32::MAX).room(), "unknown type 4294967295");
    refused(one_key("k", BOOL).bytes(&[2]).room(), "a boolean is 2");
    refused(one_key("k", ARRAY).u32(BOOL).u64(2).bytes(&[1, 3]).room(), "a boolean is 3");
    let twice = Raw::new(3, 0, 2).str(b"k").u32(U32).u32(1).str(b"k").u32(U8).bytes(&[1]);
    refused(twice, "metadata key `k` appears twice");
    refused(one_key("general.alignment", U32).u32(0), "is 0, which is no power of two");
    refused(one_key("general.alignment", U32).u32(48), "is 48, which is no power of two");
    refused(one_key("general.alignment", STRING).str(b"32"), "general.alignment");
}

#[test]
fn arrays_nest_only_so_deep() {
    let nested = |depth| (1..depth).fold(one_key("k", ARRAY), |raw, _| raw.u32(ARRAY).u64(1)).u32(U8).u64(0);
    parse(&nested(8).0).expect("eight deep is allowed");
    refused(nested(9), "nested more than 8 deep");
    refused(nested(100_000), "nested more than 8 deep");
}

#[test]
fn tensors_that_make_no_sense_are_refused() {
    refused(one_tensor(&[1; 5], F32, 0).room(), "tensor `t`: 5 dimensions");
    refused(Raw::new(3, 1, 0).str(b"t").u32(u32::MAX).room(), "4294967295 dimensions");
    refused(one_tensor(&[4, 0], F32, 0).room(), "holds nothing");
    refused(one_tensor(&[33], Q4_0, 0).room(), "rows of 33 are not whole Q4_0 blocks of 32");
    refused(one_tensor(&[16, 2], Q4_0, 0).room(), "rows of 16 are not whole Q4_0 blocks of 32");
    refused(one_tensor(&[u64::MAX, 2], F32, 0).room(), "beyond any memory");
    refused(one_tensor(&[1 << 32, 1 << 32], F32, 0).room(), "beyond any memory");
    refused(one_tensor(&[1 << 16; 4], 99, 0).room(), "beyond any memory");
    refused(one_tensor(&[4], F32, 16).room(), "offset 16 is no multiple of the alignment 32");
    refused(one_tensor(&[4], F32, 1 << 20).room(), "beyond the end of the file");
    refused(one_tensor(&[4], F32, u64::MAX - 31).room(), "beyond the end of the file");
    refused(one_tensor(&[4], 99, 1 << 20).room(), "beyond the end of the file");
    refused(one_tensor(&[1 << 40], F32, 0).room(), "beyond the end of the file");
    let twice = Raw::new(3, 2, 0).tensor("t", &[4], F32, 0).tensor("t", &[4], F32, 32);
    refused(twice.room(), "tensor `t` appears twice");
    refused(Raw::new(3, 1, 0).tensor("", &[4], F32, 0).room(), "tensor name at byte 24 is empty");
}

#[test]
fn the_last_byte_of_a_tensor_has_to_be_there() {
    // The header takes 57 bytes, so the data start at byte 64.
    let exact = one_tensor(&[4], F32, 0).bytes(&[0; 64 - 57 + 16]);
    let tensor = parse(&exact.0).expect("all bytes are there").tensors()[0].clone();
    assert_eq!((tensor.offset, tensor.n_bytes), (64, Some(16)));
    refused(one_tensor(&[4], F32, 0).bytes(&[0; 64 - 57 + 15]), "is it truncated?");
}

/// Uses all that a file gives, and checks that it lies within.
fn use_all(file: &Gguf, len: usize) {
    for (key, value) in file.metadata().iter() {
        assert!(file.metadata().get(key).is_some());
        assert!(value.to_string().len() < 10_000, "values are shown cut");
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
            if let Ok(strings) = file.metadata().strings(key) {
                assert!(strings.iter().map(<[u8]>::len).sum::<usize>() + 8 * strings.len() <= len);
                assert_eq!(strings.iter_lossy().count(), strings.iter_str().count());
            }
            let _ = (file.metadata().u32s(key), file.metadata().f32s(key));
        }
    }
    for tensor in file.tensors() {
        let end = tensor.offset + tensor.n_bytes.unwrap_or(0);
        assert!(end <= len, "{tensor:?} in {len} bytes");
        assert!(tensor.offset.is_multiple_of(file.alignment()) && tensor.n_elements() > 0);
        if let Ok(Some(weight)) = file.weight(&tensor.name) {
            assert_eq!(weight.to_f32().len(), tensor.n_elements());
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small_file();
    let end = parse(&bytes).expect("our own file can be read").tensors()[2].clone();
    let end = end.offset + end.n_bytes.expect("F16 has a size");
    for n in 0..bytes.len() {
        match parse(&bytes[..n]) {
            // What follows the last tensor is padding.
            Ok(file) => {
                assert!(n >= end, "{n} of {} bytes are enough", bytes.len());
                use_all(&file, n);
            }
            Err(Error::Gguf { .. }) => assert!(n < end, "{n} of {} bytes are not enough", bytes.len()),
            Err(other) => panic!("{other} is another kind of error"),
        }
    }
}

/// Sebastiano Vigna's SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Changes a file at one place: a bit, a byte, a number that fields are likely to choke on, or its length.
fn mutate(bytes: &mut Vec<u8>, random: &mut SplitMix) {
    const NUMBERS: [u64; 10] =
        [0, 1, 7, 9, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX, u64::MAX / 32 + 1];
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 | 3 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let n = [4, 8][random.below(2)].min(bytes.len() - at);
            bytes[at..at + n].copy_from_slice(&number[..n]);
        }
        4 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

#[test]
fn a_hundred_thousand_mutations_do_no_harm() {
    let original = small_file();
    let mut random = SplitMix(2026);
    let mut opened = 0;
    for _ in 0..100_000 {
        let mut bytes = original.clone();
        for _ in 0..=random.below(3) {
            mutate(&mut bytes, &mut random);
        }
        match parse(&bytes) {
            Ok(file) => {
                opened += 1;
                use_all(&file, bytes.len());
            }
            Err(Error::Gguf { what, .. }) => assert!(what.len() < 2000, "an error is short"),
            Err(Error::BadKey { .. } | Error::MissingKey { .. }) => {} // split.* appeared
            Err(other) => panic!("{other} is another kind of error"),
        }
    }
    // Else the mutations are so coarse that the code behind the first check is never reached.
    assert!((10_000..90_000).contains(&opened), "{opened} of 100,000 were opened");
}
