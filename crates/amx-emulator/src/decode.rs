//! The encodings of the tile instructions (Intel's Software Developer's Manual, volume 2: VEX.128, map 0F38, W0).

use super::tiles::Operation;

/// The instruction at the start of `code`, and its length. `register` returns the value of a general register. `None`
/// for instructions other than those of tiles, and for addressing modes that the kernels do not use.
pub fn decode(code: &mut dyn Iterator<Item = u8>, register: impl Fn(usize) -> usize) -> Option<(Operation, usize)> {
    let mut length = 0;
    let mut next = || {
        length += 1;
        code.next()
    };
    const VEX_3_BYTES: u8 = 0xc4;
    const MAP_0F38: u8 = 2;
    if next()? != VEX_3_BYTES {
        return None;
    }
    let (second, third, opcode, modrm) = (next()?, next()?, next()?, next()?);
    // W and L must be zero. R, X and B extend register numbers; they, and `vvvv`, are stored inverted.
    if second & 0x1f != MAP_0F38 || third & 0x84 != 0 {
        return None;
    }
    let extension = |bit: u8| usize::from(!second >> bit & 1) << 3;
    let (r, x, b) = (extension(7), extension(6), extension(5));
    let vvvv = usize::from(!third >> 3 & 0xf);
    let prefix = match third & 3 {
        0 => Prefix::None,
        1 => Prefix::P66,
        2 => Prefix::F3,
        _ => Prefix::F2,
    };
    let mode = modrm >> 6;
    let reg = usize::from(modrm >> 3 & 7) | r;
    let rm = usize::from(modrm & 7);
    if reg >= 8 {
        return None;
    }
    let is_register = mode == 3;
    let operation = match (opcode, prefix, is_register) {
        (0x49, Prefix::None, true) if modrm == 0xc0 && vvvv == 0 => Operation::Release,
        (0x49, Prefix::F2, true) if rm == 0 && vvvv == 0 => Operation::Zero { tile: reg },
        (0x49, Prefix::None, false) if reg == 0 && vvvv == 0 => Operation::Configure {
            from: address(&mut next, &register, mode, rm, x, b)?.start,
        },
        (0x4b, _, false) if rm == 4 && vvvv == 0 => {
            let Address { start, stride } = address(&mut next, &register, mode, rm, x, b)?;
            match prefix {
                // The second is `tileloaddt1`, which differs only in its use of the caches.
                Prefix::F2 | Prefix::P66 => Operation::Load {
                    tile: reg,
                    from: start,
                    stride,
                },
                Prefix::F3 => Operation::Store {
                    tile: reg,
                    to: start,
                    stride,
                },
                Prefix::None => return None,
            }
        }
        (0x5c, Prefix::F3, true) if b == 0 && vvvv < 8 => Operation::DotBf16 {
            sums: reg,
            a: rm,
            b: vvvv,
        },
        (0x5e, _, true) if b == 0 && vvvv < 8 => Operation::DotInt8 {
            sums: reg,
            a: rm,
            b: vvvv,
            a_is_signed: matches!(prefix, Prefix::F2 | Prefix::F3),
            b_is_signed: matches!(prefix, Prefix::F2 | Prefix::P66),
        },
        _ => return None,
    };
    Some((operation, length))
}

/// The prefix that a VEX instruction implies.
#[derive(Clone, Copy)]
enum Prefix {
    None,
    P66,
    F3,
    F2,
}

/// The address of a tile in memory.
struct Address {
    start: usize,
    /// Bytes from one row to the next: the index register, scaled.
    stride: usize,
}

/// Decodes the address that a ModRM byte begins. `x` and `b` extend the index and the base.
fn address(
    next: &mut dyn FnMut() -> Option<u8>,
    register: &dyn Fn(usize) -> usize,
    mode: u8,
    rm: usize,
    x: usize,
    b: usize,
) -> Option<Address> {
    /// In `rm`: a SIB byte follows. As an index: no index.
    const SIB: usize = 4;
    /// With mode 0: no base but a displacement of four bytes, which no kernel uses.
    const NO_BASE: usize = 5;
    let (base, stride) = match rm {
        SIB => {
            let sib = next()?;
            let (scale, index, base) = (sib >> 6, usize::from(sib >> 3 & 7) | x, usize::from(sib & 7));
            let stride = if index == SIB { 0 } else { register(index) << scale };
            (base, stride)
        }
        _ => (rm, 0),
    };
    if base == NO_BASE && mode == 0 {
        return None;
    }
    let displacement = match mode {
        0 => 0,
        1 => next()? as i8 as isize,
        _ => i32::from_le_bytes([next()?, next()?, next()?, next()?]) as isize,
    };
    Some(Address {
        start: register(base | b).wrapping_add_signed(displacement),
        stride,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each register has a hundred times its number.
    fn decoded(code: &[u8]) -> Option<(Operation, usize)> {
        decode(&mut code.iter().copied(), |number| 100 * number)
    }

    /// The bytes are the output of GNU as for the mnemonics (in AT&T order: the destination last).
    #[test]
    fn the_encodings_are_those_of_the_assembler() {
        let dot_int8 = |sums, a, b, a_is_signed, b_is_signed| Operation::DotInt8 {
            sums,
            a,
            b,
            a_is_signed,
            b_is_signed,
        };
        let load = |tile, from, stride| Operation::Load { tile, from, stride };
        let store = |tile, to, stride| Operation::Store { tile, to, stride };
        let cases: &[(&str, &[u8], Operation)] = &[
            (
                "ldtilecfg (%rdi)",
                &[0xc4, 0xe2, 0x78, 0x49, 0x07],
                Operation::Configure { from: 700 },
            ),
            (
                "ldtilecfg 64(%r8)",
                &[0xc4, 0xc2, 0x78, 0x49, 0x40, 0x40],
                Operation::Configure { from: 864 },
            ),
            ("tilerelease", &[0xc4, 0xe2, 0x78, 0x49, 0xc0], Operation::Release),
            (
                "tilezero %tmm0",
                &[0xc4, 0xe2, 0x7b, 0x49, 0xc0],
                Operation::Zero { tile: 0 },
            ),
            (
                "tilezero %tmm5",
                &[0xc4, 0xe2, 0x7b, 0x49, 0xe8],
                Operation::Zero { tile: 5 },
            ),
            (
                "tileloadd (%rsi,%rdx,1), %tmm4",
                &[0xc4, 0xe2, 0x7b, 0x4b, 0x24, 0x16],
                load(4, 600, 200),
            ),
            (
                "tileloadd 1024(%r9,%r10,1), %tmm6",
                &[0xc4, 0x82, 0x7b, 0x4b, 0xb4, 0x11, 0x00, 0x04, 0x00, 0x00],
                load(6, 1924, 1000),
            ),
            (
                "tileloaddt1 (%rsi,%rdx,1), %tmm7",
                &[0xc4, 0xe2, 0x79, 0x4b, 0x3c, 0x16],
                load(7, 600, 200),
            ),
            (
                "tileloadd 64(%rsi), %tmm7",
                &[0xc4, 0xe2, 0x7b, 0x4b, 0x7c, 0x26, 0x40],
                load(7, 664, 0),
            ),
            (
                "tilestored %tmm3, (%rcx,%rax,1)",
                &[0xc4, 0xe2, 0x7a, 0x4b, 0x1c, 0x01],
                store(3, 100, 0),
            ),
            (
                "tilestored %tmm3, 2048(%r12,%rax,2)",
                &[0xc4, 0xc2, 0x7a, 0x4b, 0x9c, 0x44, 0x00, 0x08, 0x00, 0x00],
                store(3, 3248, 0),
            ),
            (
                "tilestored %tmm1, -128(%r13,%r14,2)",
                &[0xc4, 0x82, 0x7a, 0x4b, 0x4c, 0x75, 0x80],
                store(1, 1172, 2800),
            ),
            (
                "tdpbf16ps %tmm6, %tmm4, %tmm0",
                &[0xc4, 0xe2, 0x4a, 0x5c, 0xc4],
                Operation::DotBf16 { sums: 0, a: 4, b: 6 },
            ),
            (
                "tdpbssd %tmm6, %tmm4, %tmm1",
                &[0xc4, 0xe2, 0x4b, 0x5e, 0xcc],
                dot_int8(1, 4, 6, true, true),
            ),
            (
                "tdpbusd %tmm6, %tmm4, %tmm2",
                &[0xc4, 0xe2, 0x49, 0x5e, 0xd4],
                dot_int8(2, 4, 6, false, true),
            ),
            (
                "tdpbsud %tmm6, %tmm4, %tmm2",
                &[0xc4, 0xe2, 0x4a, 0x5e, 0xd4],
                dot_int8(2, 4, 6, true, false),
            ),
            (
                "tdpbuud %tmm7, %tmm5, %tmm3",
                &[0xc4, 0xe2, 0x40, 0x5e, 0xdd],
                dot_int8(3, 5, 7, false, false),
            ),
        ];
        for (mnemonic, code, operation) in cases {
            assert_eq!(decoded(code), Some((*operation, code.len())), "{mnemonic}");
        }
    }

    #[test]
    fn other_instructions_are_not_taken_for_tiles() {
        for (mnemonic, code) in [
            ("ud2", &[0x0f, 0x0b, 0, 0, 0][..]),
            ("vfmadd231ps %zmm1, %zmm2, %zmm3", &[0x62, 0xf2, 0x6d, 0x48, 0xb8, 0xd9]),
            ("vpdpbusd %ymm1, %ymm2, %ymm3, VEX", &[0xc4, 0xe2, 0x6d, 0x50, 0xd9]),
            (
                "sttilecfg (%rdi), which no kernel uses",
                &[0xc4, 0xe2, 0x79, 0x49, 0x07],
            ),
        ] {
            assert_eq!(decoded(code), None, "{mnemonic}");
        }
    }
}
