//! The objects that calls of known functions make: dicts, storages and tensors.

use super::value::{Global, Id, Storage, Tensor, Value};
use super::{OBJECTS_MAX, Pickles};

/// Dimensions of a tensor; more are no weights.
const DIMENSIONS_MAX: usize = 16;
/// Longest key of a storage: `torch.save` writes a number.
const KEY_BYTES_MAX: usize = 256;

impl Pickles<'_> {
    /// The object that a call of a known function makes.
    pub(super) fn call(&mut self, callable: Id, arguments: Id) -> Result<Value, String> {
        let Value::Tuple(arguments) = self.value(arguments) else {
            return Err("its pickle calls a function without arguments".to_owned());
        };
        let made = match self.value(callable) {
            Value::Global(global) => self.call_global(global, arguments)?,
            Value::Opaque => Value::Opaque,
            _ => return Err("its pickle calls an object that is no function".to_owned()),
        };
        if let Value::Dict(entries) = &made {
            self.copied += entries.len();
            if self.copied > OBJECTS_MAX {
                return Err(format!("its pickle copies more than {OBJECTS_MAX} entries"));
            }
        }
        Ok(made)
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
                let flags = arguments.get(if dtype.is_some() { 7 } else { 6 });
                if let Some(Value::Dict(flags)) = flags.map(|&id| self.value(id))
                    && flags.iter().any(|&(_, flag)| *self.value(flag) == Value::Bool(true))
                {
                    return Err("it has a tensor whose values are to be negated or conjugated".to_owned());
                }
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
            Global::RebuildOther(form) => Ok(Value::OtherTensor(form)),
            Global::Storage(_) | Global::DType(_) | Global::Opaque => Ok(Value::Opaque),
        }
    }

    /// A persistent id: `("storage", type, key, device, size)`, and for a part of another storage a view
    /// `(key, offset, size)`.
    pub(super) fn storage(&self, id: Id) -> Result<Storage, String> {
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
            Value::Str(text) if text.len() <= KEY_BYTES_MAX => Some(text.clone()),
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
}
