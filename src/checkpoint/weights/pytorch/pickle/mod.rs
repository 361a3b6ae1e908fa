//! Reads Python's pickles as data: an interpreter of the opcodes that builds values and calls nothing.
//!
//! Values are in one list and refer to each other by index, so that neither deep nesting nor shared values cost more
//! than the bytes that describe them. The format: <https://docs.python.org/3/library/pickletools.html>.
//!
//! | file | responsibility |
//! |---|---|
//! | `value` | objects, and the classes and functions that are known |
//! | `build` | what calls of these functions make |

mod build;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashMap;

use value::Global;
pub use value::{Id, Storage, Tensor, Value};

/// Objects of one file. A tensor takes some 15.
const OBJECTS_MAX: usize = 1 << 21;

/// The pickles of a file, one after the other.
pub struct Pickles<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Entries of dicts that calls made from lists, which may be the same list again and again.
    copied: usize,
}

impl<'a> Pickles<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn value(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// All storages of the pickles that were read.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.values.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    /// Reads the next pickle.
    ///
    /// # Errors
    /// The reason in words.
    pub fn read(&mut self) -> Result<Id, String> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            // PROTO, FRAME
            0x80 => self.skip(1),
            0x95 => self.skip(8),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' => self.push(Value::Opaque),
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88)),
            // BININT, BININT1, BININT2, INT, LONG1, LONG4, BINFLOAT
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))
            }
            b'K' => {
                let [value] = self.array()?;
                self.push(Value::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))
            }
            b'I' | b'L' | b'F' => {
                let value = match self.line()? {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    number => number.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int),
                };
                self.push(value)
            }
            0x8a => {
                let [length] = self.array()?;
                self.long(length.into())
            }
            0x8b => {
                let length = u32::from_le_bytes(self.array()?);
                self.long(length as usize)
            }
            b'G' => self.skip(8).and_then(|()| self.push(Value::Opaque)),
            // Strings: those of one, four and eight bytes of length, in text and in bytes.
            b'U' | 0x8c => {
                let [length] = self.array()?;
                self.string(length.into())
            }
            b'T' | b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.string(length.into())
            }
            0x8d => {
                let length = u64::from_le_bytes(self.array()?);
                self.string(length)
            }
            b'S' | b'V' => {
                let text = self.line()?.trim_matches(['\'', '"']).to_owned();
                self.push(Value::Str(text))
            }
            b'C' => {
                let [length] = self.array()?;
                self.opaque(length.into())
            }
            b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                self.opaque(length.into())
            }
            0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.array()?);
                self.opaque(length)
            }
            // Containers.
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' | 0x8f => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))
            }
            0x85..=0x87 => {
                let length = usize::from(opcode - 0x84);
                let start = self.height_without(length)?;
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items))
            }
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items))
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(pairs(&items)))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(&[item])
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend_list(&items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)
            }
            // The memo.
            b'q' => {
                let [key] = self.array()?;
                self.remember(key.into())
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)
            }
            b'p' => {
                let key = self.number()?;
                self.remember(key)
            }
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => {
                let [key] = self.array()?;
                self.recall(key.into())
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)
            }
            b'g' => {
                let key = self.number()?;
                self.recall(key)
            }
            // Globals and what is made of them.
            b'c' => {
                let module = self.line()?.to_owned();
                let name = self.line()?.to_owned();
                self.global(&module, &name)
            }
            0x93 => {
                let (name, module) = (self.pop_string()?, self.pop_string()?);
                self.global(&module, &name)
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Value::Storage(storage))
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let value = self.call(callable, arguments)?;
                self.push(value)
            }
            0x92 => {
                self.pop()?;
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let value = self.call(callable, arguments)?;
                self.push(value)
            }
            // BUILD: attributes of an object, such as the versions of a state dict's modules.
            b'b' => self.pop().and_then(|_| self.top()).map(drop),
            _ => Err(format!(
                "its pickle has the opcode {opcode:#04x}, which torch.save does not write"
            )),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        if self.values.len() >= OBJECTS_MAX {
            return Err(format!("its pickle has more than {OBJECTS_MAX} objects"));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// Height of the stack below `items` items, none of which is below the last mark.
    fn height_without(&self, items: usize) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let height = self.stack.len().checked_sub(items).filter(|&height| height >= floor);
        height.ok_or_else(|| "its pickle takes an object that is not there".to_owned())
    }

    fn top(&self) -> Result<Id, String> {
        self.height_without(1).map(|top| self.stack[top])
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_string(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        match self.value(id) {
            Value::Str(text) => Ok(text.clone()),
            _ => Err("its pickle has a global without a name".to_owned()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop();
        let mark = mark.ok_or("its pickle ends a list that has no beginning")?;
        Ok(self.stack.split_off(mark))
    }

    fn extend_list(&mut self, items: &[Id]) -> Result<(), String> {
        let list = self.top()?;
        match &mut self.values[list as usize] {
            Value::List(list) => list.extend_from_slice(items),
            Value::Opaque => {}
            _ => return Err("its pickle adds items to an object that is not a list".to_owned()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Id]) -> Result<(), String> {
        let dict = self.top()?;
        match &mut self.values[dict as usize] {
            Value::Dict(entries) => entries.extend(pairs(items)),
            Value::Opaque => {}
            _ => return Err("its pickle adds entries to an object that is not a dict".to_owned()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id = self.memo.get(&key).copied();
        self.stack
            .push(id.ok_or("its pickle refers to an object that is not there")?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = Global::of(module, name);
        let global = global.ok_or_else(|| {
            // A hostile name may be long.
            let named: String = format!("{module}.{name}").chars().take(100).collect();
            format!("it uses {named}, which is no part of a file of tensors; nothing of it is run")
        })?;
        self.push(Value::Global(global))
    }

    /// A whole number in two's complement; one that exceeds 64 bits is no size.
    fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        let value = match bytes.len() {
            0 => Value::Int(0),
            length @ 1..=8 => {
                let sign = if bytes[length - 1] & 0x80 == 0 { 0 } else { 0xff };
                let mut whole = [sign; 8];
                whole[..length].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(whole))
            }
            _ => Value::Opaque,
        };
        self.push(value)
    }

    fn string(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.push(Value::Str(text))
    }

    fn opaque(&mut self, length: u64) -> Result<(), String> {
        self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        self.push(Value::Opaque)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let bytes = self.bytes[self.at..].get(..length);
        let bytes = bytes.ok_or("its pickle has no end within the file and its limit")?;
        self.at += length;
        Ok(bytes)
    }

    fn skip(&mut self, length: usize) -> Result<(), String> {
        self.take(length).map(drop)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("it has N bytes"))
    }

    /// The rest of a line, as the opcodes of protocol 0 have it.
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n');
        let bytes = self.take(length.unwrap_or(rest.len()))?;
        self.skip(1)?;
        std::str::from_utf8(bytes).map_err(|_| "its pickle has a name that is not UTF-8".to_owned())
    }

    fn number(&mut self) -> Result<u32, String> {
        let line = self.line()?;
        line.parse()
            .map_err(|_| "its pickle has a number that is none".to_owned())
    }
}

fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    let (pairs, _) = items.as_chunks::<2>();
    pairs.iter().map(|&[key, value]| (key, value)).collect()
}
