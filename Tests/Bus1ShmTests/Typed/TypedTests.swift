import Bus1Codable
import Testing

@testable import Bus1Shm

private enum Here {
    struct Order: BitwiseCopyable { var id: UInt64, price: Int64 }
    struct Nested: BitwiseCopyable { var order: Order, kind: UInt8? }
}
private enum There {
    struct Order: BitwiseCopyable { var id: UInt64, price: Int64 }
    struct Nested: BitwiseCopyable { var order: Order, kind: UInt8? }
}
private enum Elsewhere {
    struct Order: BitwiseCopyable { var price: Int64, id: UInt64 }
    struct Nested: BitwiseCopyable { var order: Order, kind: Int8? }
}
private struct Letter: Codable, Equatable { var to: String, lines: [String] }
private struct Note: Codable { var text: String }

@Suite(.timeLimit(.minutes(1)))
struct TypedTests {
    @Test func aFingerprintIsOfWhatATypeLooksLikeAndNotOfWhereItStands() {
        #expect(TypeFingerprint(of: Here.Order.self) == TypeFingerprint(of: There.Order.self))
        #expect(TypeFingerprint(of: Here.Nested.self) == TypeFingerprint(of: There.Nested.self))
        #expect(TypeFingerprint(of: Here.Order.self) != TypeFingerprint(of: Elsewhere.Order.self))
        #expect(TypeFingerprint(of: UInt8?.self) != TypeFingerprint(of: Int8?.self))
        #expect(TypeFingerprint(of: UInt64.self) != TypeFingerprint(of: Int64.self))
        #expect(TypeFingerprint(of: InlineArray<4, UInt8>.self) != TypeFingerprint(of: UInt32.self))
        #expect(TypeFingerprint(of: Here.Order.self).text.count == 16)
    }

    @Test func aTypedNameIsLookedUpByItsTypeAndRefusedToAnother() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange", carrying: Here.Order.self)
        let sender = try Peer(on: test.bus)
        let exchange = try sender.lookUp(
            "exchange", carrying: There.Order.self, until: .after(.seconds(5)))
        try sender.send(There.Order(id: 7, price: 4200), to: exchange)
        let order = try owner.nextMessage().load(as: Here.Order.self)
        #expect(order.id == 7 && order.price == 4200)
        do throws(Bus1Error) {
            _ = try sender.lookUp("exchange", carrying: Elsewhere.Order.self)
            Issue.record("another type was admitted")
        } catch { #expect(error.code == .mismatch) }
        do throws(Bus1Error) {
            _ = try sender.lookUp(
                "nothing", carrying: Here.Order.self, until: .after(.milliseconds(5)))
            Issue.record("a name that nobody published was found")
        } catch { #expect(error.code == .timedOut) }
    }

    @Test func aPayloadIsReadAsValuesWhereItLies() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let own = try owner.makeHandle(to: node)
        let numbers = (0..<1000).map { UInt32($0) }
        try owner.send(numbers.span.bytes, to: own)
        let message = try owner.nextMessage()
        let values = try message.values(of: UInt32.self)
        var sum: UInt32 = 0
        for index in values.indices { sum += values[index] }
        #expect(values.count == 1000 && sum == 499_500)
        try owner.send(numbers.span.bytes.extracting(first: 7), to: own)
        let odd = try owner.nextMessage()
        do throws(Bus1Error) {
            _ = try odd.values(of: UInt32.self)
            Issue.record("seven bytes were read as numbers of four")
        } catch { #expect(error.code == .mismatch) }
    }

    @Test func encodedValuesTravelAndAnotherTypeIsRefused() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "post", encoding: Letter.self)
        let sender = try Peer(on: test.bus)
        let post = try sender.lookUp("post", encoding: Letter.self, until: .after(.seconds(5)))
        let letter = Letter(to: "you", lines: ["one", String(repeating: "long ", count: 200)])
        try sender.send(letter, to: post)
        let message = try owner.nextMessage()
        #expect(try message.decode(Letter.self) == letter)
        #expect(throws: Bus1Error.self) { try message.decode(Note.self) }
        do throws(Bus1Error) {
            _ = try sender.lookUp("post", encoding: Note.self)
            Issue.record("another type was admitted")
        } catch { #expect(error.code == .mismatch) }
    }
}
