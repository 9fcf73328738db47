/* The rivals and the yardsticks. */
#pragma once
