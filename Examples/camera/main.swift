// A camera, a filter and a viewer: three processes, and one copy of each picture. The camera fills frames in shared
// memory; the filter looks at them where they lie, and forwards them with what it has found, in one transaction;
// the viewer reads them there, too, and draws the last one into a file.
//
//     swift run example-camera viewer last.png &
//     swift run example-camera filter &
//     swift run example-camera camera 200
import Bus1Shm
import Glibc

let (width, height) = (320, 200)

/// What the filter says of a frame.
struct Mark: BitwiseCopyable {
    var x, y: Int32
    var number: UInt64
}

/// A bright spot that moves over a grey ground. One byte a pixel.
func paint(_ number: Int, in frame: inout Slice) {
    let (left, top) = (20 + number % (width - 40), 20 + number * 3 % (height - 40))
    var bytes = frame.bytes
    for y in 0..<height {
        for x in 0..<width {
            let distance = abs(x - left) + abs(y - top)
            bytes.storeBytes(
                of: distance < 16 ? UInt8(255 - distance) : UInt8((x + y) / 8),
                toByteOffset: y * width + x,
                as: UInt8.self)
        }
    }
}

func camera(_ count: Int) throws {
    let peer = try Peer()
    let filter = try peer.lookUp("camera/raw")
    for number in 0..<count {
        // Memory comes back when viewer and filter have seen the frame; it is used again then.
        var frame = try peer.loan(width * height, until: .never)
        paint(number, in: &frame)
        try peer.send(frame, to: filter)
    }
}

/// Calls with each message that comes to the node, until the last handle to it is gone: who sent has ended.
func receive(
    _ peer: borrowing Peer, _ node: borrowing Node, _ body: (consuming Message) throws -> Void
) throws {
    while true {
        switch try peer.receive() {
        case .message(let message): try body(message)
        case .notice(let notice): if notice.kind == .noHandles(node.id) { return }
        }
    }
}

func filter() throws {
    let peer = try Peer()
    let frames = try peer.lookUp("camera/seen")
    let marks = try peer.lookUp("camera/marks")
    let node = try peer.makeNode()
    try peer.publish(node, as: "camera/raw")
    var number: UInt64 = 0
    try receive(peer, node) { (message: consuming Message) in
        guard message.byteCount == width * height else { return }
        let brightest = message.payload.withUnsafeBytes { pixels in
            pixels.indices.max { pixels[$0] < pixels[$1] } ?? 0
        }
        let mark = Mark(x: Int32(brightest % width), y: Int32(brightest / width), number: number)
        number += 1
        // The frame stays where the camera made it; both arrive at one instant, or none.
        var both = peer.transaction()
        try both.send(try peer.forward(message), to: frames.id)
        try both.send(mark, to: marks.id)
        try both.commit()
    }
}

func viewer(_ path: String) throws {
    let peer = try Peer()
    let frames = try peer.makeNode()
    let marks = try peer.makeNode()
    try peer.publish(marks, as: "camera/marks")
    try peer.publish(frames, as: "camera/seen")
    var picture: [UInt8] = []
    var last = Mark(x: 0, y: 0, number: 0)
    let seen = frames.id
    try receive(peer, marks) { message in
        if message.node == seen {
            picture = message.payload.withUnsafeBytes { Array($0) }
        } else {
            last = try message.load()
        }
    }
    // Others sent it: whether it fits is checked here.
    guard picture.count == width * height, 0..<Int32(height) ~= last.y, 0..<Int32(width) ~= last.x
    else { fatalError("no picture") }
    for x in 0..<width { picture[Int(last.y) * width + x] ^= 0x80 }
    for y in 0..<height { picture[y * width + Int(last.x)] ^= 0x80 }
    let file = greyPNG(picture, width: width, height: height)
    guard let output = fopen(path, "w"), fwrite(file, file.count, 1, output) == 1,
        fclose(output) == 0
    else { fatalError("\(path): \(String(cString: strerror(errno)))") }
    print("\(last.number + 1) frames, the last one's spot at \(last.x), \(last.y)")
}

switch (CommandLine.arguments.dropFirst().first, CommandLine.arguments.dropFirst(2).first) {
case ("camera", let count): try camera(count.flatMap { Int($0) } ?? 200)
case ("filter", nil): try filter()
case ("viewer", let path?): try viewer(path)
default: fatalError("example-camera camera [COUNT] | filter | viewer FILE")
}
