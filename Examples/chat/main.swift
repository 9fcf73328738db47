// A chat in which the right to talk is a handle. Whoever was given a seat in a room talks there; whoever was not
// can't, and can't pretend to be another: a seat is a node made for one guest, and its tag says who talks.
//
//     swift run example-chat host     # keeps the lobby; anybody of this user may come in
//     swift run example-chat ann      # each line is said in the lobby; "/invite bob" opens a room of ann's own
//     swift run example-chat bob      # hears of it, and talks there from now on; the host can't listen
import Bus1Shm
import Glibc

/// The first byte of a message; behind it is text.
enum Kind: UInt8 {
    /// To a room, with a handle by which the guest hears: its name.
    case enter
    /// To a room: a line. From a room: who said it, and the line.
    case say
    /// To a guest, with a handle to a seat: the room's name. To a room: for whom the seat is.
    case seat
}

struct Guest: ~Copyable {
    let name: String
    let peer: Peer
    /// By which rooms are heard.
    let ear: Node
    let earHandle: Handle
    /// The room that this process keeps.
    let room: String
    /// By the tag of its node: who sits there, and by what handle that one hears. Tag 0 is the door.
    var seats: [UInt64: (guest: String, node: NodeID, ear: HandleID?)] = [:]
    var count: UInt64 = 0
    var ears: [HandleID] { seats.values.compactMap(\.ear) }
    /// Where this process talks: a seat in somebody else's room. nil: in its own.
    var seat: HandleID?
    /// Its seat in the lobby.
    var lobby: HandleID?

    init(name: String) throws {
        let peer = try Peer()
        let ear = try peer.makeNode(tag: .max)
        let earHandle = try peer.makeHandle(to: ear)
        room = name == "host" ? "lobby" : "\(name)'s room"
        self.name = name
        self.peer = peer
        self.ear = ear
        self.earHandle = earHandle
    }

    /// A seat for one guest: the handle to it is the right to talk.
    mutating func makeSeat(_ guest: String, ear: HandleID?) throws -> Handle {
        count += 1
        let node = try peer.makeNode(tag: count)
        let handle = try peer.makeHandle(to: node)
        seats[count] = (guest, node.detach(), ear)
        return handle
    }

    /// To all at one instant, but for those who are gone: of them a notice tells.
    func tell(_ kind: Kind, _ text: String, to handles: [HandleID], passing: HandleID...) throws {
        let bytes = [kind.rawValue] + text.utf8
        var messages = peer.transaction()
        for handle in handles { try messages.send(bytes.span.bytes, to: handle, passing: passing) }
        _ = try messages.commitEach()
    }

    mutating func read(_ line: String) throws {
        if line.hasPrefix("/invite "), let lobby {
            let other = String(line.dropFirst(8))
            let handle = try makeSeat(other, ear: nil)
            // The host passes it on. Nobody else ever sees it.
            try tell(.seat, other, to: [lobby], passing: handle.id)
            seat = nil
        } else if let seat {
            try tell(.say, line, to: [seat])
        } else {
            try tell(.say, "[\(room)] \(name): \(line)", to: ears)
        }
    }

    mutating func hear(_ message: inout Message) throws {
        let bytes = message.payload.withUnsafeBytes { Array($0) }
        guard let kind = bytes.first.flatMap(Kind.init) else { return }
        let text = String(decoding: bytes.dropFirst(), as: UTF8.self)
        let handle = message.handleCount > 0 ? message.takeHandle() : nil
        let isForMe = message.node == ear.id
        switch kind {
        case .say where isForMe: print(text)
        case .seat where isForMe:
            seat = handle?.detach()
            guard let seat else { return }
            if lobby != nil { try tell(.enter, name, to: [seat], passing: earHandle.id) }
            lobby = lobby ?? seat
            print("* you may talk in \(text)")
        case .enter:
            guard let ear = handle?.detach() else { return }
            if message.tag == 0 {
                guard !seats.values.contains(where: { $0.guest == text }) else { return }
                let seat = try makeSeat(text, ear: ear)
                try tell(.seat, room, to: [ear], passing: seat.id)
            } else {
                seats[message.tag]?.ear = ear
            }
            print("* \(text) has come")
        case .say:
            guard let seat = seats[message.tag] else { return }
            let line = "[\(room)] \(seat.guest): \(text)"
            if name != "host" { print(line) }
            try tell(.say, line, to: ears)
        case .seat:
            let ear = seats.values.first { $0.guest == text }?.ear
            guard let ear, let handle, let seat = seats[message.tag] else { return }
            try tell(.seat, "\(seat.guest)'s room", to: [ear], passing: handle.id)
        }
    }

    /// A guest's process is gone, or a room's.
    mutating func miss(_ ear: HandleID) throws {
        if ear == seat { print("* the room is closed") }
        guard let (tag, seat) = seats.first(where: { $0.value.ear == ear }) else { return }
        seats[tag] = nil
        try peer.release([], nodes: [seat.node])
        print("* \(seat.guest) has gone")
    }
}

var guest = try Guest(name: CommandLine.arguments.dropFirst().first ?? "host")
let door = try guest.peer.makeNode()
if guest.name == "host" {
    try guest.peer.publish(door, as: "lobby")
} else {
    let lobby = try guest.peer.lookUp("lobby").detach()
    try guest.tell(.enter, guest.name, to: [lobby], passing: guest.earHandle.id)
}
var waiting = [
    pollfd(fd: try guest.peer.descriptor(), events: Int16(POLLIN), revents: 0),
    pollfd(fd: guest.name == "host" ? -1 : STDIN_FILENO, events: Int16(POLLIN), revents: 0),
]
while poll(&waiting, 2, -1) >= 0 || errno == EINTR {
    while let delivery = try guest.peer.tryReceive() {
        switch consume delivery {
        case .message(var message): try guest.hear(&message)
        case .notice(let notice):
            if case .nodeReleased(let ear) = notice.kind { try guest.miss(ear) }
        }
    }
    guard waiting[1].revents != 0 else { continue }
    guard let line = readLine() else { break }
    try guest.read(line)
}
