//! Whether a public key is a point on its curve.
//!
//! The primitives check this too, but not all of them (Ed25519 keys are taken unseen by most), and a
//! build without primitives must refuse the same keys. Everything here works on public values, so
//! nothing needs to be constant-time.

/// A curve of short Weierstrass form with a = -3; all numbers big-endian and of one length.
#[derive(Debug)]
pub(crate) struct Curve {
    field: &'static [u8],
    b: &'static [u8],
    pub(crate) order: &'static [u8],
}

impl Curve {
    /// Whether (x, y), both as long as the field, is a point other than infinity.
    pub(crate) fn contains(&self, x: &[u8], y: &[u8]) -> bool {
        if x.len() != self.field.len() || y.len() != self.field.len() || x >= self.field || y >= self.field {
            return false;
        }
        let field = Field::new(self.field);
        let (x, y, b) = (field.enter(x), field.enter(y), field.enter(self.b));
        // y^2 = x^3 - 3x + b
        let cube = field.multiply(&field.multiply(&x, &x), &x);
        let three_x = field.add(&field.add(&x, &x), &x);
        let right = field.add(&field.subtract(&cube, &three_x), &b);
        field.multiply(&y, &y) == right
    }
}

/// Whether 32 bytes are the one canonical encoding of a point of Ed25519 that is not of small order.
/// Under a key of small order one signature fits every message.
///
/// Source: RFC 8032 section 5.1.3.
pub(crate) fn is_ed25519_point(encoded: &[u8; 32]) -> bool {
    let mut y = *encoded;
    y.reverse();
    y[0] &= 0x7f;
    if y >= ED25519_FIELD || ED25519_ORDER_8.contains(&y) {
        return false;
    }
    let field = Field::new(&ED25519_FIELD);
    let (y, d, one) = (field.enter(&y), field.enter(&ED25519_D), field.enter(&[1]));
    // y = 0 has order 4, y = 1 and y = -1 have order 1 and 2.
    let square = field.multiply(&y, &y);
    if square == ZERO || square == one {
        return false;
    }
    // x^2 = (y^2 - 1) / (d y^2 + 1) has a root when numerator times denominator is a square.
    let numerator = field.subtract(&square, &one);
    let denominator = field.add(&field.multiply(&d, &square), &one);
    field.is_square(&field.multiply(&numerator, &denominator))
}

const LIMBS: usize = 6;
type Number = [u64; LIMBS];
const ZERO: Number = [0; LIMBS];

/// Arithmetic modulo an odd number of up to 384 bits, in Montgomery form with R = 2^384.
struct Field {
    modulus: Number,
    /// -modulus^-1 mod 2^64
    inverse: u64,
    /// R^2 mod modulus
    r_squared: Number,
}

impl Field {
    fn new(modulus: &[u8]) -> Self {
        let modulus = from_bytes(modulus);
        // Newton: each step doubles the number of right bits, 3 at the start.
        let mut inverse = modulus[0];
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(modulus[0].wrapping_mul(inverse)));
        }
        let mut field = Self { modulus, inverse: inverse.wrapping_neg(), r_squared: ZERO };
        let mut power = from_bytes(&[1]);
        for _ in 0..2 * 64 * LIMBS {
            power = field.add(&power, &power);
        }
        field.r_squared = power;
        field
    }

    /// A number below the modulus, into Montgomery form.
    fn enter(&self, bytes: &[u8]) -> Number {
        self.multiply(&from_bytes(bytes), &self.r_squared)
    }

    fn add(&self, a: &Number, b: &Number) -> Number {
        let mut sum = ZERO;
        let mut carry = 0;
        for i in 0..LIMBS {
            let wide = u128::from(a[i]) + u128::from(b[i]) + carry;
            sum[i] = wide as u64;
            carry = wide >> 64;
        }
        self.reduce_once(sum, carry != 0)
    }

    fn subtract(&self, a: &Number, b: &Number) -> Number {
        let (difference, borrowed) = subtract(a, b);
        if !borrowed {
            return difference;
        }
        let mut sum = ZERO;
        let mut carry = 0;
        for i in 0..LIMBS {
            let wide = u128::from(difference[i]) + u128::from(self.modulus[i]) + carry;
            sum[i] = wide as u64;
            carry = wide >> 64;
        }
        sum
    }

    /// a * b / R mod modulus, by coarsely integrated operand scanning.
    fn multiply(&self, a: &Number, b: &Number) -> Number {
        let mut t = [0_u64; LIMBS + 2];
        for b_limb in b {
            let mut carry = 0_u128;
            for i in 0..LIMBS {
                let wide = u128::from(a[i]) * u128::from(*b_limb) + u128::from(t[i]) + carry;
                t[i] = wide as u64;
                carry = wide >> 64;
            }
            let wide = u128::from(t[LIMBS]) + carry;
            t[LIMBS] = wide as u64;
            t[LIMBS + 1] = (wide >> 64) as u64;

            let m = t[0].wrapping_mul(self.inverse);
            let mut carry = (u128::from(m) * u128::from(self.modulus[0]) + u128::from(t[0])) >> 64;
            for i in 1..LIMBS {
                let wide = u128::from(m) * u128::from(self.modulus[i]) + u128::from(t[i]) + carry;
                t[i - 1] = wide as u64;
                carry = wide >> 64;
            }
            let wide = u128::from(t[LIMBS]) + carry;
            t[LIMBS - 1] = wide as u64;
            t[LIMBS] = t[LIMBS + 1] + (wide >> 64) as u64;
        }
        let mut low = ZERO;
        low.copy_from_slice(&t[..LIMBS]);
        self.reduce_once(low, t[LIMBS] != 0)
    }

    /// Euler's criterion; zero counts as a square.
    fn is_square(&self, a: &Number) -> bool {
        let one = self.enter(&[1]);
        let mut power = one;
        // (modulus - 1) / 2 is the modulus shifted right by one, since it is odd.
        for bit in (1..64 * LIMBS).rev() {
            power = self.multiply(&power, &power);
            if self.modulus[bit / 64] >> (bit % 64) & 1 == 1 {
                power = self.multiply(&power, a);
            }
        }
        power == one || power == ZERO
    }

    fn reduce_once(&self, number: Number, carried: bool) -> Number {
        let (reduced, borrowed) = subtract(&number, &self.modulus);
        if carried || !borrowed { reduced } else { number }
    }
}

fn subtract(a: &Number, b: &Number) -> (Number, bool) {
    let mut difference = ZERO;
    let mut borrow = false;
    for i in 0..LIMBS {
        let (first, below) = a[i].overflowing_sub(b[i]);
        let (second, again) = first.overflowing_sub(u64::from(borrow));
        difference[i] = second;
        borrow = below || again;
    }
    (difference, borrow)
}

/// At most 48 bytes, big-endian.
fn from_bytes(bytes: &[u8]) -> Number {
    let mut number = ZERO;
    for (position, byte) in bytes.iter().rev().enumerate() {
        number[position / 8] |= u64::from(*byte) << (8 * (position % 8));
    }
    number
}

/// P-256, also secp256r1 and prime256v1.
///
/// Source: FIPS 186-4 section D.1.2.
pub(crate) static P256: Curve = Curve {
    field: &[
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ],
    b: &[
        0x5a, 0xc6, 0x35, 0xd8, 0xaa, 0x3a, 0x93, 0xe7, 0xb3, 0xeb, 0xbd, 0x55, 0x76, 0x98, 0x86, 0xbc, 0x65,
        0x1d, 0x06, 0xb0, 0xcc, 0x53, 0xb0, 0xf6, 0x3b, 0xce, 0x3c, 0x3e, 0x27, 0xd2, 0x60, 0x4b,
    ],
    order: &[
        0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ],
};

/// P-384, also secp384r1.
///
/// Source: FIPS 186-4 section D.1.2.
pub(crate) static P384: Curve = Curve {
    field: &[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff,
    ],
    b: &[
        0xb3, 0x31, 0x2f, 0xa7, 0xe2, 0x3e, 0xe7, 0xe4, 0x98, 0x8e, 0x05, 0x6b, 0xe3, 0xf8, 0x2d, 0x19, 0x18,
        0x1d, 0x9c, 0x6e, 0xfe, 0x81, 0x41, 0x12, 0x03, 0x14, 0x08, 0x8f, 0x50, 0x13, 0x87, 0x5a, 0xc6, 0x56,
        0x39, 0x8d, 0x8a, 0x2e, 0xd1, 0x9d, 0x2a, 0x85, 0xc8, 0xed, 0xd3, 0xec, 0x2a, 0xef,
    ],
    order: &[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf, 0x58, 0x1a,
        0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
    ],
};

/// 2^255 - 19.
static ED25519_FIELD: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xed,
];

/// -121665/121666, the `d` of the curve.
static ED25519_D: [u8; 32] = [
    0x52, 0x03, 0x6c, 0xee, 0x2b, 0x6f, 0xfe, 0x73, 0x8c, 0xc7, 0x40, 0x79, 0x77, 0x79, 0xe8, 0x98, 0x00,
    0x70, 0x0a, 0x4d, 0x41, 0x41, 0xd8, 0xab, 0x75, 0xeb, 0x4d, 0xca, 0x13, 0x59, 0x78, 0xa3,
];

/// The two y of the points of order 8.
static ED25519_ORDER_8: [[u8; 32]; 2] = [
    [
        0x7a, 0x03, 0xac, 0x92, 0x77, 0xfd, 0xc7, 0x4e, 0xc6, 0xcc, 0x39, 0x2c, 0xfa, 0x53, 0x20, 0x2a, 0x0f,
        0x67, 0x10, 0x0d, 0x76, 0x0b, 0x3c, 0xba, 0x4f, 0xd8, 0x4d, 0x3d, 0x70, 0x6a, 0x17, 0xc7,
    ],
    [
        0x05, 0xfc, 0x53, 0x6d, 0x88, 0x02, 0x38, 0xb1, 0x39, 0x33, 0xc6, 0xd3, 0x05, 0xac, 0xdf, 0xd5, 0xf0,
        0x98, 0xef, 0xf2, 0x89, 0xf4, 0xc3, 0x45, 0xb0, 0x27, 0xb2, 0xc2, 0x8f, 0x95, 0xe8, 0x26,
    ],
];
