# QUERNEL_LAYOUT: a hash of the headers that the engine and its CUDA library must agree on. One built from other headers
# is refused when it is loaded.
file(GLOB layout_headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/args/*.h)
list(APPEND layout_headers ${CMAKE_CURRENT_LIST_DIR}/table.h ${CMAKE_CURRENT_LIST_DIR}/../core/dtype.h
     ${CMAKE_CURRENT_LIST_DIR}/../runtime/cuda_library.h)
set(layout_text "")
foreach(header ${layout_headers})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${header})
  file(SHA256 ${header} digest)
  string(APPEND layout_text ${digest})
endforeach()
string(SHA256 QUERNEL_LAYOUT "${layout_text}")
