//! Reads Python's pickles as data: an interpreter of the opcodes that builds values and calls nothing.
//!
//! Values are in one list and refer to each other by index, so that neither deep nesting nor shared values cost more than
//! the bytes that describe them. The format: <https://docs.python.org/3/library/pickletools.html>.

use std::collections::HashMap;

/// Objects of one file. A tensor takes some 15.
const OBJECTS_MAX: usize = 1 << 21;
/// Dimensions of a tensor; more are no weights.
const DIMENSIONS_MAX: usize = 16;

/// Index of a value in [`Pickles`].
pub type Id = u32;

/// A Python object, as far as checkpoints of tensors need it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An object without meaning for tensors: a number with a fraction, bytes, None, …
    Opaque,
    Bool(bool),
    Int(i64),
    Str(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or a function, by name only.
    Global(Global),
    Storage(Storage),
    Tensor(Tensor),
}

/// The classes and functions that `torch.save` writes for tensors. A file with any other is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Global {
    /// `collections.OrderedDict` and `dict`.
    Dict,
    /// `torch.FloatStorage` and its relatives: the name without `Storage`, such as `Float`.
    Storage(String),
    /// `torch.float32` and its relatives.
    DType(String),
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, which names the type of the elements.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`: a tensor, and options.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: a call of one of the above.
    RebuildFromType,
    /// `torch.Size`.
    Tuple,
    /// Of no meaning for weights, such as `torch.device`.
    Opaque,
}

impl Global {
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict" | "defaultdict") | ("builtins" | "__builtin__", "dict") => Self::Dict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Size") => Self::Tuple,
            ("torch", "device" | "Tensor" | "strided")
            | ("torch.nn.parameter", "Parameter")
            | ("torch.serialization", "_get_layout")
            | ("builtins" | "__builtin__", "set" | "list" | "int" | "float" | "bool" | "str" | "object")
            | ("_codecs", "encode") => Self::Opaque,
            ("torch" | "torch.cuda" | "torch.storage", name) => match name.strip_suffix("Storage") {
                Some(element) => Self::Storage(element.to_owned()),
                None if is_dtype(name) => Self::DType(name.to_owned()),
                None => return None,
            },
            _ => return None,
        })
    }
}

fn is_dtype(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stems = [
        "float", "bfloat", "int", "uint", "bool", "double", "half", "long", "short",
    ];
    stems.contains(&stem) || name.starts_with("float8") || name.starts_with("complex")
}

/// The elements of tensors, in another part of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// The name of its type, as in [`Global::Storage`].
    pub element: String,
    pub key: String,
    /// In elements; in bytes if the type is `Untyped`.
    pub size: u64,
    /// Where it begins in the storage of this key, in elements: old files have storages that are parts of others.
    pub offset: u64,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub storage: Id,
    /// In elements, as the strides.
    pub offset: u64,
    pub shape: Vec<u64>,
    pub strides: Vec<u64>,
    /// The type in place of that of the storage, such as `float32`.
    pub dtype: Option<String>,
}

/// The pickles of a file, one after the other.
pub struct Pickles<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
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

    /// The object that a call of a known function makes.
    fn call(&self, callable: Id, arguments: Id) -> Result<Value, String> {
        let Value::Tuple(arguments) = self.value(arguments) else {
            return Err("its pickle calls a function without arguments".to_owned());
        };
        match self.value(callable) {
            Value::Global(global) => self.call_global(global, arguments),
            Value::Opaque => Ok(Value::Opaque),
            _ => Err("its pickle calls an object that is no function".to_owned()),
        }
    }

    fn call_global(&self, global: &Global, arguments: &[Id]) -> Result<Value, String> {
        let invalid = || "its pickle builds a tensor from other things than a storage and sizes".to_owned();
        match global {
            // Entries as a list of pairs, or none.
            Global::Dict => {
                let Some(Value::List(items)) = arguments.first().map(|&id| self.value(id)) else {
                    return Ok(Value::Dict(Vec::new()));
                };
                let entries = items.iter().filter_map(|&item| match self.value(item) {
                    Value::Tuple(pair) | Value::List(pair) => Some((*pair.first()?, *pair.get(1)?)),
                    _ => None,
                });
                Ok(Value::Dict(entries.collect()))
            }
            Global::Tuple => match arguments.first().map(|&id| self.value(id)) {
                Some(Value::Tuple(items) | Value::List(items)) if items.len() <= DIMENSIONS_MAX => {
                    Ok(Value::Tuple(items.clone()))
                }
                _ => Err(invalid()),
            },
            Global::RebuildTensor | Global::RebuildTensorV3 => {
                let &[storage, offset, shape, strides, ..] = arguments else {
                    return Err(invalid());
                };
                let dtype = match global {
                    Global::RebuildTensorV3 => match arguments.get(6).map(|&id| self.value(id)) {
                        Some(Value::Global(Global::DType(name))) => Some(name.clone()),
                        _ => return Err(invalid()),
                    },
                    _ => None,
                };
                let is_storage = matches!(self.value(storage), Value::Storage(_));
                let tensor = || {
                    Some(Tensor {
                        storage,
                        offset: self.size(offset)?,
                        shape: self.sizes(shape)?,
                        strides: self.sizes(strides)?,
                        dtype,
                    })
                };
                let tensor = tensor().filter(|tensor| is_storage && tensor.shape.len() == tensor.strides.len());
                tensor.map(Value::Tensor).ok_or_else(invalid)
            }
            Global::RebuildParameter => match arguments.first().map(|&id| self.value(id)) {
                Some(Value::Tensor(tensor)) => Ok(Value::Tensor(tensor.clone())),
                _ => Err(invalid()),
            },
            Global::RebuildFromType => {
                let &[function, _, arguments, ..] = arguments else {
                    return Err(invalid());
                };
                match (self.value(function), self.value(arguments)) {
                    // Not itself again: a call within a call could go on for as long as the file.
                    (Value::Global(inner), Value::Tuple(arguments)) if *inner != Global::RebuildFromType => {
                        self.call_global(inner, arguments)
                    }
                    _ => Err(invalid()),
                }
            }
            Global::Storage(_) | Global::DType(_) | Global::Opaque => Ok(Value::Opaque),
        }
    }

    /// A persistent id: `("storage", type, key, device, size)`, and for a part of another storage a view
    /// `(key, offset, size)`.
    fn storage(&self, id: Id) -> Result<Storage, String> {
        let storage = || {
            let Value::Tuple(parts) = self.value(id) else {
                return None;
            };
            let &[kind, element, key, _, size, ref view @ ..] = parts.as_slice() else {
                return None;
            };
            let Value::Global(Global::Storage(element)) = self.value(element) else {
                return None;
            };
            let is_storage = matches!(self.value(kind), Value::Str(kind) if kind == "storage");
            let mut storage = Storage {
                element: element.clone(),
                key: self.key(key)?,
                size: self.size(size)?,
                offset: 0,
            };
            if let Some(Value::Tuple(view)) = view.first().map(|&id| self.value(id)) {
                let &[_, offset, _] = view.as_slice() else {
                    return None;
                };
                storage.offset = self.size(offset)?;
            }
            is_storage.then_some(storage)
        };
        storage().ok_or_else(|| "its pickle has a storage that is not described as torch.save does".to_owned())
    }

    /// The key of a storage: a number or a text.
    pub fn key(&self, id: Id) -> Option<String> {
        match self.value(id) {
            Value::Str(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<u64> {
        match self.value(id) {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    fn sizes(&self, id: Id) -> Option<Vec<u64>> {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) if items.len() <= DIMENSIONS_MAX => {
                items.iter().map(|&item| self.size(item)).collect()
            }
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Value, String> {
        let mut pickles = Pickles::new(bytes);
        let id = pickles.read()?;
        Ok(pickles.value(id).clone())
    }

    #[test]
    fn values_of_all_protocols() {
        for (pickle, value) in [
            (&b"\x80\x02K\x07."[..], Value::Int(7)),
            (b"I7\n.", Value::Int(7)),
            (b"L-7L\n.", Value::Int(-7)),
            (b"J\xfe\xff\xff\xff.", Value::Int(-2)),
            (b"\x8a\x01\xff.", Value::Int(-1)),
            (b"\x8a\x00.", Value::Int(0)),
            (b"I01\n.", Value::Bool(true)),
            (b"\x88.", Value::Bool(true)),
            (b"X\x02\x00\x00\x00ab.", Value::Str("ab".to_owned())),
            (
                b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x02ab\x94.",
                Value::Str("ab".to_owned()),
            ),
            (b"S'ab'\n.", Value::Str("ab".to_owned())),
            (b"G\x00\x00\x00\x00\x00\x00\x00\x00.", Value::Opaque),
            (b"ccollections\nOrderedDict\n)R.", Value::Dict(Vec::new())),
            (
                b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93)\x81.",
                Value::Dict(Vec::new()),
            ),
            (b"K\x01K\x02\x86.", Value::Tuple(vec![0, 1])),
            (b"(K\x01K\x02t.", Value::Tuple(vec![0, 1])),
            (b"]K\x01a.", Value::List(vec![1])),
            (b"}q\x00(K\x01K\x02u.", Value::Dict(vec![(1, 2)])),
            (b"K\x01p0\n0g0\n.", Value::Int(1)),
        ] {
            assert_eq!(read(pickle), Ok(value), "{}", pickle.escape_ascii());
        }
    }

    #[test]
    fn a_pickle_of_other_things_than_tensors_is_refused_by_name() {
        for (pickle, named) in [
            (&b"cposix\nsystem\n(S'true'\ntR."[..], "posix.system"),
            (b"\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
            (b"ctorch\nload\n.", "torch.load"),
            (
                b"ctorch._utils\n_import_dotted_name\n.",
                "torch._utils._import_dotted_name",
            ),
            // EXT1 and INST.
            (b"\x82\x01.", "0x82"),
            (b"(iposix\nsystem\n.", "0x69"),
        ] {
            let error = read(pickle).unwrap_err();
            assert!(error.contains(named), "{}: {error}", pickle.escape_ascii());
        }
    }

    #[test]
    fn a_broken_pickle_is_an_error() {
        let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.";
        assert!(read(whole).is_ok());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        for broken in [
            &b"0."[..],
            b".",
            b"(0.",
            b"t.",
            b"h\x00.",
            b"K\x01a.",
            b"K\x01K\x01R.",
            b"K\x01)R.",
            b"X\xff\xff\xff\xffab.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.",
            b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
            b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00K\x00K\x00tR.",
            b"Nq\x00Q.",
            b"\x93.",
        ] {
            assert!(read(broken).is_err(), "{}", broken.escape_ascii());
        }
    }

    /// Nesting as deep as the file, and an object that contains itself.
    #[test]
    fn nesting_and_cycles_take_no_more_than_their_bytes() {
        let mut deep = vec![b')'];
        deep.extend(vec![0x85; 1_000_000]);
        deep.push(b'.');
        assert!(matches!(read(&deep), Ok(Value::Tuple(_))));
        assert_eq!(read(b"]q\x00h\x00a."), Ok(Value::List(vec![0])));
        let mut many = vec![b')'; OBJECTS_MAX + 1];
        many.push(b'.');
        assert!(read(&many).unwrap_err().contains("objects"));
    }
}
