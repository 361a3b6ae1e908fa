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

/// A pickle that repeats a part of itself is refused before it takes much more memory than its bytes.
#[test]
fn repeated_parts_are_bounded() {
    // One list of a million references to one pair, and a thousand dicts of it.
    let mut dicts = b"]q\x00((K\x01K\x02tq\x01".to_vec();
    dicts.extend(b"h\x01".repeat(1_000_000));
    dicts.extend(b"eccollections\nOrderedDict\nq\x02".to_vec());
    dicts.extend(b"0h\x02h\x00\x85R".repeat(1000));
    dicts.push(b'.');
    assert!(read(&dicts).unwrap_err().contains("copies more than"));
    // A long key, and a thousand storages with it.
    let mut storages = b"X\x40\x42\x0f\x00".to_vec();
    storages.extend(vec![b'k'; 1_000_000]);
    storages.extend(b"q\x00(X\x07\x00\x00\x00storagectorch\nFloatStorage\nh\x00X\x03\x00\x00\x00cpuK\x01tq\x01");
    storages.extend(b"0h\x01Q".repeat(1000));
    storages.push(b'.');
    assert!(read(&storages).unwrap_err().contains("a storage that is not described"));
    let name = [b"ctorch\n".as_slice(), &vec![b'x'; 1_000_000], b"Storage\n."].concat();
    assert!(read(&name).unwrap_err().contains("no part of a file of tensors"));
}
