/* What the broker and the peers ask of the kernel: sockets, descriptors, processes, events. */
#pragma once
