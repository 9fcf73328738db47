import CShmRing
import Glibc
import Testing

@testable import Bus1TestSupport

/// The shared structures as Swift sees them, against docs/shared-layout.md, whose rows
/// `Tests/tools/check-layout-doc` compiles against the C header.
@Suite struct LayoutTests {
    private struct Place: Equatable {
        var offset: Int
        var bytes: Int
    }

    @Test func swiftSeesTheStructuresAsTheDocumentDescribesThem() throws {
        let page = try documented()
        #expect(page.sizes.count == 10)
        for (structure, size) in seenSizes {
            #expect(page.sizes[structure] == size, "\(structure)")
        }
        #expect(Set(page.sizes.keys) == Set(seenSizes.keys))
        for (field, place) in seen { #expect(page.places[field] == place, "\(field)") }
        #expect(Set(page.places.keys) == Set(seen.keys))
    }

    private let seenSizes = [
        "shmring_header": MemoryLayout<shmring_header>.size,
        "shmring_bell": MemoryLayout<shmring_bell>.size,
        "shmring_ring_control": MemoryLayout<shmring_ring_control>.size,
        "shmring_slot": MemoryLayout<shmring_slot>.size,
        "shmring_slice_ref": MemoryLayout<shmring_slice_ref>.size,
        "shmring_drop": MemoryLayout<shmring_drop>.size,
        "shmring_outbox": MemoryLayout<shmring_outbox>.size,
        "shmring_board": MemoryLayout<shmring_board>.size,
        "shmring_bus_page": MemoryLayout<shmring_bus_page>.size,
        "shmring_clock_set": MemoryLayout<shmring_clock_set>.size,
    ]

    private let seen: [String: Place] = [
        "shmring_header.magic": place(\shmring_header.magic),
        "shmring_header.layout_version": place(\shmring_header.layout_version),
        "shmring_header.kind": place(\shmring_header.kind),
        "shmring_header.byte_count": place(\shmring_header.byte_count),
        "shmring_header.id": place(\shmring_header.id),
        "shmring_header.param_a": place(\shmring_header.param_a),
        "shmring_header.param_b": place(\shmring_header.param_b),
        "shmring_ring_control.header": place(\shmring_ring_control.header),
        "shmring_ring_control.tail": place(\shmring_ring_control.tail),
        "shmring_ring_control.head": place(\shmring_ring_control.head),
        "shmring_ring_control.out_of_service": place(\shmring_ring_control.out_of_service),
        "shmring_ring_control.waiters": place(\shmring_ring_control.waiters),
        "shmring_ring_control.room": place(\shmring_ring_control.room),
        "shmring_ring_control.credit_bell": place(\shmring_ring_control.credit_bell),
        "shmring_ring_control.credit": place(\shmring_ring_control.credit),
        "shmring_ring_control.credit_limit": place(\shmring_ring_control.credit_limit),
        "shmring_ring_control.withheld": place(\shmring_ring_control.withheld),
        "shmring_ring_control.charged": place(\shmring_ring_control.charged),
        "shmring_bell.waiters": place(\shmring_bell.waiters),
        "shmring_bell.rings": place(\shmring_bell.rings),
        "shmring_ring_control.parked": place(\shmring_ring_control.parked),
        "shmring_ring_control.flags": place(\shmring_ring_control.flags),
        "shmring_ring_control.doorbell": place(\shmring_ring_control.doorbell),
        "shmring_slot.header": place(\shmring_slot.header),
        "shmring_slot.stamp": place(\shmring_slot.stamp),
        "shmring_slot.route": place(\shmring_slot.route),
        "shmring_slice_ref.segment": place(\shmring_slice_ref.segment),
        "shmring_slice_ref.lend_index": place(\shmring_slice_ref.lend_index),
        "shmring_slice_ref.lend": place(\shmring_slice_ref.lend),
        "shmring_slice_ref.offset": place(\shmring_slice_ref.offset),
        "shmring_slice_ref.byte_count": place(\shmring_slice_ref.byte_count),
        "shmring_outbox.header": place(\shmring_outbox.header),
        "shmring_outbox.attention": place(\shmring_outbox.attention),
        "shmring_outbox.flagged": place(\shmring_outbox.flagged),
        "shmring_outbox.given": place(\shmring_outbox.given),
        "shmring_outbox.queued": place(\shmring_outbox.queued),
        "shmring_outbox.dead": place(\shmring_outbox.dead),
        "shmring_outbox.releases": place(\shmring_outbox.releases),
        "shmring_outbox.drops": place(\shmring_outbox.drops),
        "shmring_drop.word": place(\shmring_drop.word),
        "shmring_drop.what": place(\shmring_drop.what),
        "shmring_board.header": place(\shmring_board.header),
        "shmring_board.waiters": place(\shmring_board.waiters),
        "shmring_board.returned": place(\shmring_board.returned),
        "shmring_board.charged": place(\shmring_board.charged),
        "shmring_board.credited": place(\shmring_board.credited),
        "shmring_board.drops_seen": place(\shmring_board.drops_seen),
        "shmring_board.lend": place(\shmring_board.lend),
        "shmring_bus_page.header": place(\shmring_bus_page.header),
        "shmring_bus_page.clock_source": place(\shmring_bus_page.clock_source),
        "shmring_bus_page.clock_coarse_ns": place(\shmring_bus_page.clock_coarse_ns),
        "shmring_bus_page.epoch": place(\shmring_bus_page.epoch),
        "shmring_bus_page.ticks_base": place(\shmring_bus_page.ticks_base),
        "shmring_bus_page.ns_base": place(\shmring_bus_page.ns_base),
        "shmring_bus_page.called": place(\shmring_bus_page.called),
        "shmring_bus_page.offset": place(\shmring_bus_page.offset),
        "shmring_bus_page.floor": place(\shmring_bus_page.floor),
        "shmring_bus_page.sets": place(\shmring_bus_page.sets),
        "shmring_clock_set.offset": place(\shmring_clock_set.offset),
        "shmring_clock_set.floor": place(\shmring_clock_set.floor),
        "shmring_clock_set.at_ns": place(\shmring_clock_set.at_ns),
        "shmring_clock_set.rate": place(\shmring_clock_set.rate),
        "shmring_bus_page.death": place(\shmring_bus_page.death),
        "shmring_bus_page.dead_peer": place(\shmring_bus_page.dead_peer),
    ]

    private static func place<Root, Value>(_ field: KeyPath<Root, Value>) -> Place {
        Place(offset: MemoryLayout<Root>.offset(of: field) ?? -1, bytes: MemoryLayout<Value>.size)
    }

    /// The rows of the document.
    private func documented() throws -> (sizes: [String: Int], places: [String: Place]) {
        var sizes: [String: Int] = [:]
        var places: [String: Place] = [:]
        var structure = ""
        for line in try linesOfTree("docs/shared-layout.md") {
            if line.hasPrefix("## ") {
                let words = line.split(whereSeparator: { " `()".contains($0) }).map(String.init)
                structure = words.count == 5 && words[1] == "struct" ? words[2] : ""
                if !structure.isEmpty { sizes[structure] = Int(words[3]) }
            }
            let cells = line.split(separator: "|").map { $0.filter { !" `".contains($0) } }
            guard !structure.isEmpty, cells.count > 2, let offset = Int(cells[0]) else { continue }
            places["\(structure).\(cells[2])"] = Place(offset: offset, bytes: Int(cells[1]) ?? -1)
        }
        return (sizes, places)
    }
}
