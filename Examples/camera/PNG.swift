/// A picture of one byte a pixel as a PNG file, not compressed.
func greyPNG(_ pixels: [UInt8], width: Int, height: Int) -> [UInt8] {
    // Each row begins with its filter: none.
    let rows = (0..<height).flatMap { [0] + pixels[$0 * width..<($0 + 1) * width] }
    var data: [UInt8] = [0x78, 0x01]
    for start in stride(from: 0, to: rows.count, by: 65_535) {
        let block = rows[start..<min(rows.count, start + 65_535)]
        let (low, high) = (UInt8(block.count & 0xff), UInt8(block.count >> 8))
        data += [block.endIndex == rows.count ? 1 : 0, low, high, ~low, ~high] + block
    }
    data += bigEndian(adler32(rows))
    return [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]
        + chunk("IHDR", bigEndian(UInt32(width)) + bigEndian(UInt32(height)) + [8, 0, 0, 0, 0])
        + chunk("IDAT", data) + chunk("IEND", [])
}

private func bigEndian(_ number: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: number >> $0) }
}

private func chunk(_ name: String, _ data: [UInt8]) -> [UInt8] {
    let body = Array(name.utf8) + data
    return bigEndian(UInt32(data.count)) + body + bigEndian(crc32(body))
}

private func adler32(_ bytes: [UInt8]) -> UInt32 {
    var (a, b) = (UInt32(1), UInt32(0))
    for byte in bytes {
        a = (a + UInt32(byte)) % 65_521
        b = (b + a) % 65_521
    }
    return b << 16 | a
}

private func crc32(_ bytes: [UInt8]) -> UInt32 {
    ~bytes.reduce(~0) { crc, byte in
        (0..<8).reduce(crc ^ UInt32(byte)) { rest, _ in
            rest & 1 == 1 ? 0xedb8_8320 ^ rest >> 1 : rest >> 1
        }
    }
}
