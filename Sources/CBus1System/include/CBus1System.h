/* What the broker and the peers ask of the kernel: sockets, descriptors, processes, events. */
#pragma once

#include "bus1_sys_event.h"
#include "bus1_sys_facts.h"
#include "bus1_sys_link.h"
#include "bus1_sys_loop.h"
#include "bus1_sys_process.h"
#include "bus1_sys_sealed.h"
#include "bus1_sys_socket.h"
#include "bus1_sys_succession.h"
