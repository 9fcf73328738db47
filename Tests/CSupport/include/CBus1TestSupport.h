/* What tests need beside the library. */
#pragma once

#include "test_sandbox.h"
#include "test_stop.h"
#include "test_storm.h"
