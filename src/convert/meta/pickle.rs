//! Reads the table of tensors out of a checkpoint's pickle, without running it.
//!
//! A pickle is a program for a small stack machine, and can call whatever Python can import. This machine knows the few
//! instructions and the few names that tables of tensors need, and refuses all else; a name that it knows stands for a
//! value here, never for a call.
//!
//! Sources: <https://docs.python.org/3/library/pickletools.html>, <https://pytorch.org/docs/stable/notes/serialization.html>.

use std::collections::HashMap;
use std::rc::Rc;

use crate::gguf::MAX_DIMS;

/// A tensor as a pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    /// ggml's name of the numbers' format.
    pub(super) format: &'static str,
    /// Which member of the archive has the numbers.
    pub(super) storage: Rc<str>,
    /// Where in it the tensor begins, in numbers.
    pub(super) offset: usize,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
}

/// Something on the stack. What it is made of lies in the same list; nothing is copied that may be long.
#[derive(Debug, Clone)]
enum Value {
    Mark,
    None,
    Bool,
    Float,
    Int(i64),
    Text(Rc<str>),
    Tuple(Vec<usize>),
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Global(Global),
    Storage { format: &'static str, key: Rc<str> },
    Tensor(Described),
}

/// The names that mean something.
#[derive(Debug, Clone, Copy)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(&'static str),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "FloatStorage") => Global::Storage("F32"),
            ("torch", "HalfStorage") => Global::Storage("F16"),
            ("torch", "BFloat16Storage") => Global::Storage("BF16"),
            _ => return None,
        })
    }
}

/// What is wrong.
type Pickled<T> = Result<T, String>;

/// The tensors of the dictionary that `pickle` makes, by name.
///
/// # Errors
/// If it makes something else, or wants anything that tables of tensors don't need.
pub(super) fn tensors(pickle: &[u8]) -> Pickled<Vec<(Rc<str>, Described)>> {
    let mut machine = Machine { pickle, at: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
    let top = machine.run()?;
    let Value::Dict(entries) = &machine.values[top] else { return Err("it holds no table of tensors".into()) };
    let mut found = Vec::new();
    for &(key, value) in entries {
        match (&machine.values[key], &machine.values[value]) {
            (Value::Text(name), Value::Tensor(tensor)) => found.push((name.clone(), tensor.clone())),
            (Value::Text(name), _) => return Err(format!("`{name}` is no tensor")),
            _ => return Err("it holds something without a name".into()),
        }
    }
    Ok(found)
}

struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    /// Everything that was made; at most one for each byte of the pickle.
    values: Vec<Value>,
    /// Indices of values.
    stack: Vec<usize>,
    memo: HashMap<u32, usize>,
}

impl<'a> Machine<'a> {
    /// Goes through all instructions, and gives the index of what they make.
    fn run(&mut self) -> Pickled<usize> {
        loop {
            let at = self.at;
            let op = self.byte()?;
            match op {
                b'.' => return self.pop(),
                // PROTO; FRAME
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'N' => self.push(Value::None),
                0x88 | 0x89 => self.push(Value::Bool),
                b'K' | b'M' | b'J' | 0x8a => self.int(op)?,
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Float);
                }
                b'X' | 0x8c => self.text(op)?,
                b'(' => self.push(Value::Mark),
                b')' => self.push(Value::Tuple(Vec::new())),
                b']' => self.push(Value::List(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items));
                }
                0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
                b'a' | b'e' => self.append(op)?,
                b's' | b'u' => self.set_items(op)?,
                b'q' | b'r' | 0x94 => self.memoize(op)?,
                b'h' | b'j' => self.recall(op)?,
                b'c' => self.global()?,
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                // BUILD: attributes of the dictionary, which say nothing about tensors.
                b'b' => drop(self.pop()?),
                _ => return Err(format!("instruction {op:#04x} at byte {at} has no place in a table of tensors")),
            }
        }
    }

    fn take(&mut self, n: usize) -> Pickled<&'a [u8]> {
        let rest = &self.pickle[self.at..];
        let taken = rest.get(..n).ok_or("it ends too early")?;
        self.at += n;
        Ok(taken)
    }

    fn byte(&mut self) -> Pickled<u8> {
        Ok(self.take(1)?[0])
    }

    /// An integer of n bytes, not negative.
    fn unsigned(&mut self, n: usize) -> Pickled<usize> {
        let bytes = self.take(n)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// The bytes up to the end of the line.
    fn line(&mut self) -> Pickled<&'a str> {
        let rest = &self.pickle[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or("it ends too early")?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "a name is not UTF-8".into())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Pickled<usize> {
        self.stack.pop().ok_or_else(|| "its stack is empty".into())
    }

    fn top(&self) -> Pickled<usize> {
        self.stack.last().copied().ok_or_else(|| "its stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> Pickled<Vec<usize>> {
        let mark = self.stack.iter().rposition(|&i| matches!(self.values[i], Value::Mark));
        let mark = mark.ok_or("a mark is missing")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn int(&mut self, op: u8) -> Pickled<()> {
        let number = match op {
            b'K' => self.unsigned(1)? as i64,
            b'M' => self.unsigned(2)? as i64,
            b'J' => i64::from(self.unsigned(4)? as u32 as i32),
            _ => {
                let n = self.unsigned(1)?;
                let bytes = self.take(n)?;
                let sign = bytes.last().is_some_and(|&byte| byte >= 0x80);
                let mut all = [if sign { 0xff } else { 0 }; 8];
                all.get_mut(..n).ok_or("a number is too large")?.copy_from_slice(bytes);
                i64::from_le_bytes(all)
            }
        };
        self.push(Value::Int(number));
        Ok(())
    }

    fn text(&mut self, op: u8) -> Pickled<()> {
        let len = self.unsigned(if op == b'X' { 4 } else { 1 })?;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text is not UTF-8")?;
        self.push(Value::Text(text.into()));
        Ok(())
    }

    fn tuple(&mut self, n: usize) -> Pickled<()> {
        let start = self.stack.len().checked_sub(n).ok_or("its stack is empty")?;
        let items = self.stack.split_off(start);
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, op: u8) -> Pickled<()> {
        let items = if op == b'e' { self.pop_to_mark()? } else { vec![self.pop()?] };
        let list = self.top()?;
        match &mut self.values[list] {
            Value::List(list) => list.extend(items),
            _ => return Err("it appends to what is no list".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, op: u8) -> Pickled<()> {
        let items = match op {
            b'u' => self.pop_to_mark()?,
            _ => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
        };
        let (pairs, rest) = items.as_chunks::<2>();
        let dict = self.top()?;
        match &mut self.values[dict] {
            Value::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err("it sets items of what is no dictionary".into()),
        }
        Ok(())
    }

    fn memoize(&mut self, op: u8) -> Pickled<()> {
        let key = match op {
            b'q' => self.unsigned(1)?,
            b'r' => self.unsigned(4)?,
            _ => self.memo.len(),
        };
        let top = self.top()?;
        self.memo.insert(key as u32, top);
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Pickled<()> {
        let key = self.unsigned(if op == b'h' { 1 } else { 4 })? as u32;
        let value = *self.memo.get(&key).ok_or("it recalls what it did not keep")?;
        self.stack.push(value);
        Ok(())
    }

    fn global(&mut self) -> Pickled<()> {
        let (module, name) = (self.line()?, self.line()?);
        let global = Global::named(module, name).ok_or_else(|| {
            format!("it wants `{module}.{name}`, which has no place in a table of tensors; it is not run")
        })?;
        self.push(Value::Global(global));
        Ok(())
    }

    fn items(&self, tuple: usize) -> &[usize] {
        match &self.values[tuple] {
            Value::Tuple(items) => items,
            _ => &[],
        }
    }

    /// `('storage', class, key, device, length)`
    fn storage(&mut self) -> Pickled<()> {
        let id = self.pop()?;
        let storage = match *self.items(id) {
            [_, class, key, ..] => match (&self.values[class], &self.values[key]) {
                (Value::Global(Global::Storage(format)), Value::Text(key)) => {
                    Some(Value::Storage { format, key: key.clone() })
                }
                _ => None,
            },
            _ => None,
        };
        self.push(storage.ok_or("a storage is none of f32, f16 or bf16")?);
        Ok(())
    }

    fn reduce(&mut self) -> Pickled<()> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let made = match self.values[function] {
            Value::Global(Global::OrderedDict) if self.items(arguments).is_empty() => Value::Dict(Vec::new()),
            Value::Global(Global::RebuildTensor) => Value::Tensor(self.tensor(self.items(arguments))?),
            Value::Global(Global::RebuildParameter) => match self.items(arguments) {
                [tensor, ..] => self.values[*tensor].clone(),
                [] => return Err("a parameter is none".into()),
            },
            _ => return Err("it calls what is no function of tensors".into()),
        };
        self.push(made);
        Ok(())
    }

    /// `(storage, offset, shape, stride, …)`
    fn tensor(&self, arguments: &[usize]) -> Pickled<Described> {
        let &[storage, offset, shape, stride, ..] = arguments else { return Err("a tensor lacks its shape".into()) };
        let Value::Storage { format, key } = &self.values[storage] else {
            return Err("a tensor lacks its storage".into());
        };
        let shape = self.counts(shape).ok_or("the shape of a tensor makes no sense")?;
        let stride = self.counts(stride).ok_or("the strides of a tensor make no sense")?;
        let Value::Int(offset) = self.values[offset] else {
            return Err("the offset of a tensor makes no sense".into());
        };
        let mut dense = 1_usize;
        for (&dim, &stride) in shape.iter().zip(&stride).rev() {
            if dim > 1 && stride != dense {
                return Err("a tensor's rows do not lie one after another".into());
            }
            dense = dense.checked_mul(dim).ok_or("a tensor is beyond any memory")?;
        }
        let offset = usize::try_from(offset).map_err(|_| "the offset of a tensor is negative")?;
        Ok(Described { format, storage: key.clone(), offset, shape })
    }

    fn counts(&self, tuple: usize) -> Option<Vec<usize>> {
        let count = |&i: &usize| match self.values[i] {
            Value::Int(n) => usize::try_from(n).ok(),
            _ => None,
        };
        let items = self.items(tuple);
        if items.len() > MAX_DIMS { None } else { items.iter().map(count).collect() }
    }
}
